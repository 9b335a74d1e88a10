// A conversation of a chat UI that is built on the AI SDK, without its pixels. It reads one JSON object from standard
// input and writes one to standard output; tests/clients/chat.py says what is in them.
import process from "node:process";
import { text } from "node:stream/consumers";

import { createDatabricksProvider } from "@databricks/ai-sdk-provider";
import { AbstractChat, convertToModelMessages, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const { url, conversation, hosted, functions, steps } = JSON.parse(await text(process.stdin));

const posts = [];
const errors = [];
const runs = [];

// What the chat UI's own fetch does: it names the conversation, and posts to one address.
async function post(address, request) {
  const body = JSON.parse(request.body);
  if (conversation) body.context = { conversation_id: conversation, user_id: "user" };
  const headers = { ...request.headers, "x-mlflow-return-trace-id": "true" };
  const answer = await fetch(address, { ...request, headers, body: JSON.stringify(body) });
  posts.push({ body, status: answer.status });
  return answer;
}

const provider = createDatabricksProvider({
  baseURL: url,
  formatUrl: ({ baseUrl, path }) => (conversation ? `${baseUrl}/invocations` : `${baseUrl}${path}`),
  fetch: post,
  useRemoteToolCalling: hosted,
});
const model = provider.responses("agent");

// A function of the client: it remembers what it was called with, and gives what the test told it to.
const tools = Object.fromEntries(
  Object.entries(functions).map(([name, output]) => [
    name,
    tool({
      description: `The client's own ${name}.`,
      inputSchema: jsonSchema({ type: "object", properties: {} }),
      execute: async (input) => {
        runs.push({ name, input });
        return output;
      },
    }),
  ]),
);

function told(error) {
  const message = error instanceof Error ? error.message : JSON.stringify(error);
  errors.push(message);
  return message;
}

// Streams an answer; where that fails before any text, the UI's server asks again without streaming.
async function sendMessages({ messages }) {
  const prompt = { model, messages: await convertToModelMessages(messages), tools, stopWhen: stepCountIs(5) };
  const streamed = streamText({ ...prompt, onError: () => {} });
  let shown = false;
  return streamed.toUIMessageStream({ originalMessages: messages, sendSources: true, onError: told }).pipeThrough(
    new TransformStream({
      async transform(chunk, controller) {
        shown ||= chunk.type === "text-delta";
        if (chunk.type !== "error" || shown) return controller.enqueue(chunk);
        const { text: answer } = await generateText(prompt);
        controller.enqueue({ type: "text-start", id: "again" });
        controller.enqueue({ type: "text-delta", id: "again", delta: answer });
        controller.enqueue({ type: "text-end", id: "again" });
      },
    }),
  );
}

class Chat extends AbstractChat {
  constructor() {
    const state = {
      status: "ready",
      error: undefined,
      messages: [],
      pushMessage: (message) => state.messages.push(message),
      popMessage: () => state.messages.pop(),
      replaceMessage: (index, message) => (state.messages[index] = message),
      snapshot: (value) => structuredClone(value),
    };
    super({ state, transport: { sendMessages, reconnectToStream: async () => null }, onError: told });
  }
}

const chat = new Chat();
for (const step of steps) {
  if ("say" in step) await chat.sendMessage({ text: step.say });
  else if ("regenerate" in step) await chat.regenerate();
  else {
    const asked = chat.lastMessage.parts.filter((part) => part.state === "approval-requested");
    const { id } = asked.find((part) => part.toolName === step.answer).approval;
    await chat.addToolApprovalResponse({ id, approved: step.approved, reason: step.reason });
    if (step.send) await chat.sendMessage();
  }
}
process.stdout.write(JSON.stringify({ messages: chat.messages, posts, errors, runs }));

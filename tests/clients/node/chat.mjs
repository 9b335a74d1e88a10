// A conversation of a chat UI that is built on the AI SDK, without its pixels. It reads one JSON object from standard
// input and writes one to standard output; tests/clients/chat.py says what is in them.
import process from "node:process";
import { text } from "node:stream/consumers";

import { createDatabricksProvider } from "@databricks/ai-sdk-provider";
import {
  AbstractChat,
  convertToModelMessages,
  createUIMessageStream,
  createUIMessageStreamResponse,
  DefaultChatTransport,
  generateText,
  jsonSchema,
  stepCountIs,
  streamText,
  tool,
} from "ai";

const { url, conversation, hosted, functions, steps } = JSON.parse(await text(process.stdin));

const posts = [];
const errors = [];
const runs = [];
const broken = [];

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

// The UI's server. Where a stream fails before any text, it asks again without streaming.
async function serve(_, request) {
  const { messages } = JSON.parse(request.body);
  const prompt = { model, messages: await convertToModelMessages(messages) };
  if (!hosted) Object.assign(prompt, { tools, stopWhen: stepCountIs(5) });
  const stream = createUIMessageStream({
    originalMessages: messages,
    execute: async ({ writer }) => {
      const providerOptions = { databricks: { includeTrace: true } };
      const streamed = streamText({ ...prompt, providerOptions, includeRawChunks: true, onError: () => {} });
      let shown = false;
      for await (const chunk of streamed.toUIMessageStream({ sendSources: true, onError: messageOf })) {
        shown ||= chunk.type.startsWith("text-");
        if (chunk.type === "error") {
          errors.push(chunk.errorText);
          if (!shown) return askAgain(prompt, writer);
        }
        writer.write(chunk);
      }
    },
  });
  return createUIMessageStreamResponse({ stream });
}

async function askAgain(prompt, writer) {
  try {
    for (const part of (await generateText(prompt)).content) {
      const { toolCallId, toolName, input, output } = part;
      if (part.type === "tool-call") writer.write({ type: "tool-input-available", toolCallId, toolName, input });
      if (part.type === "tool-result") writer.write({ type: "tool-output-available", toolCallId, output });
      if (!part.text) continue;
      const id = `again-${part.type}`;
      writer.write({ type: `${part.type}-start`, id });
      writer.write({ type: `${part.type}-delta`, id, delta: part.text });
      writer.write({ type: `${part.type}-end`, id });
    }
  } catch (error) {
    writer.write({ type: "data-error", data: messageOf(error) });
  }
}

function messageOf(error) {
  return error instanceof Error ? error.message : JSON.stringify(error);
}

// The UI's browser side, which checks what it is sent.
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
    const transport = new DefaultChatTransport({ fetch: serve });
    super({ state, transport, onError: ({ message }) => errors.includes(message) || broken.push(message) });
  }
}

const chat = new Chat();
for (const step of steps) {
  if ("say" in step) await chat.sendMessage({ text: step.say });
  else if ("regenerate" in step) await chat.regenerate();
  else {
    const asked = chat.lastMessage.parts.filter((part) => part.state === "approval-requested");
    const { id } = asked.find((part) => part.toolName === step.answer).approval;
    await chat.addToolApprovalResponse({ id, approved: step.approved, reason: step.reason ?? undefined });
    if (step.send) await chat.sendMessage();
  }
}
if (broken.length) throw new Error(broken.join("\n"));
process.stdout.write(JSON.stringify({ messages: chat.messages, posts, errors, runs }));

"""The answer in chunks, for callers that stream messages.

A message that a node returns is streamed once, as a whole. Chat surfaces want chunks, so the text first goes to
LangChain's streaming callbacks, with the message's id: then it is not streamed again
(docs/langgraph.md: Streaming and cancelling).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_async_callback_manager_for_config
from langgraph.graph.message import push_message

CHUNK = 200


async def stream_texts(messages: Sequence[BaseMessage], config: RunnableConfig) -> None:
    """Stream the texts of assistant messages to callers with ``stream_mode="messages"``.

    The messages between them are pushed too, so that all arrive in order; the node's return repeats none of them.
    """
    everyone = get_async_callback_manager_for_config(config)
    streaming = [handler for handler in everyone.handlers if hasattr(handler, "tap_output_aiter")]
    if not streaming:
        return
    manager = AsyncCallbackManager(
        handlers=streaming,
        parent_run_id=everyone.parent_run_id,
        tags=everyone.tags,
        metadata=everyone.metadata,
    )
    for message in messages:
        if isinstance(message, AIMessage) and isinstance(message.content, str) and message.content:
            await _stream(message, message.content, manager)
        elif message.id:
            push_message(message, state_key=None)


def chunks_of(text: str) -> Iterator[str]:
    """The text in chunks that add up to it, cut at spaces where possible; the same text gives the same chunks.

    Example:
        >>> [len(chunk) for chunk in chunks_of("word " * 100)]
        [200, 200, 100]
    """
    start = 0
    while start < len(text):
        end = min(len(text), start + CHUNK)
        if end < len(text) and (space := text.rfind(" ", start + CHUNK // 2, end)) >= 0:
            end = space + 1
        yield text[start:end]
        start = end


async def _stream(message: AIMessage, text: str, manager: AsyncCallbackManager) -> None:
    [run] = await manager.on_chat_model_start({}, [[]], run_id=uuid.uuid4())
    for chunk in chunks_of(text):
        piece = ChatGenerationChunk(message=AIMessageChunk(content=chunk, id=message.id))
        await run.on_llm_new_token(chunk, chunk=piece)
    await run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))

"""The answer in chunks, for callers that stream messages.

A node that returns a message shows it once, whole. Chat surfaces draw chunks, so the text is offered to
LangChain's streaming callbacks first, under the id of the message that follows: it is not shown twice
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
    """Offer the texts of messages of the assistant to whoever streams this run; nobody else notices.

    The messages between them are shown too, so that all come in order; the node's return shows none again.
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
    """The text in pieces that add up to it, cut by the text alone, at spaces where there are some.

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

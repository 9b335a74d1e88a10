"""What every service must bear that runs tools behind approvals: the tests of a service inherit it."""

from __future__ import annotations

from tests.support.service_stories import Story


class Purchases:
    """Tests of one service; a class that inherits them gives the fixture ``story``."""

    def test_each_approved_tool_runs_once(self, story: Story) -> None:
        approved, end = story.approve_all(story.ask("Buy milk, then mail Bob"))
        assert story.effects == ["buy milk", "mail Bob"]
        assert approved == ["buy", "mail"]
        assert (end.status, end.text.endswith("Turn 1.")) == ("answered", True)

    def test_a_later_turn_runs_nothing_again(self, story: Story) -> None:
        story.approve_all(story.ask("Buy milk, then mail Bob"))
        approved, end = story.approve_all(story.ask("Publish news"))
        assert story.effects == ["buy milk", "mail Bob", "publish news"]
        assert approved == ["publish"]
        assert (end.status, end.text.endswith("Turn 2.")) == ("answered", True)

    def test_the_same_tool_twice_is_asked_about_twice_and_runs_twice(self, story: Story) -> None:
        approved, end = story.approve_all(story.ask("Buy milk, then buy milk"))
        assert story.effects == ["buy milk", "buy milk"]
        assert approved == ["buy", "buy"]
        assert end.status == "answered"

    def test_a_refusal_runs_nothing_and_is_not_silent(self, story: Story) -> None:
        assert story.ask("Buy milk").status == "waits"
        assert_ended_with_a_word(story)
        assert story.effects == []

    def test_a_refusal_after_an_approval_runs_the_first_alone(self, story: Story) -> None:
        assert story.ask("Buy milk, then mail Bob").status == "waits"
        assert story.answer(True).status == "waits"
        assert_ended_with_a_word(story)
        assert story.effects == ["buy milk"]

    def test_a_run_killed_after_its_approval_was_sent_runs_the_tool_once(self, story: Story) -> None:
        assert story.ask("Buy milk").status == "waits"
        story.proxy.next_poll = "answer held"
        run = story.start({"answer": True})
        story.proxy.wait_until_held()
        run.kill()
        story.proxy.let_go()
        end = story.resume()
        assert (end.status, story.effects) == ("answered", ["buy milk"])
        assert len(story.jobs) == 2


def assert_ended_with_a_word(story: Story) -> None:
    """Refuse what is asked: the run ends with an answer of the agent's, or with an error that says so."""
    end = story.answer(False)
    if end.status == "error":
        assert end.error in ("JobFailedError", "JobIncompleteError"), end
    else:
        assert end.status == "answered"
        assert not end.text.startswith(("Refused", "mcp_list_tools")), f"nobody said a word: {end.texts}"

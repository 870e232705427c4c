"""A chat that stands in for a judge."""

from holdfast.engine.chat import ChatAnswer


class StandInJudge:
    """Gives the answers that it was made with, one after another, and keeps what it was asked."""

    name = "stand-in"

    def __init__(self, *answers: str) -> None:
        self.answers, self.prompts = list(answers), list[str]()

    def __call__(self, system: str, prompt: str, max_tokens: int, timeout: float) -> ChatAnswer:
        self.prompts.append(prompt)
        return ChatAnswer(self.answers.pop(0))

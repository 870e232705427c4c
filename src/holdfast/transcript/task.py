"""Finds the task: the turn in which the user asked for what the agent works on now.

It is the first turn with words of the user's own behind the start of the newest goal: behind `/clear`, or the turn that
opens a new task. A greeting that led to no work is none. Text that a harness injected is never the task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from holdfast.transcript.injections import Owner
from holdfast.transcript.speaker import extract_own_words, is_notes, is_section, split_voices
from holdfast.transcript.turn import Role, Turn

_FRESH = re.compile(r"\s*/(?:clear|new|reset|newtask)\b|I switched to a new code base\. Please don't consider")
"""A command of the user's, and what Aider says behind its examples of edits."""
_FRESH_COMMAND = re.compile(r"<command-name>\s*/(?:clear|new|reset)\b")
_GOAL_COMMAND = re.compile(r"<command-name>\s*/goal\b")
_GOAL = re.compile(
    r"""\s*(?:/goal\b
        |(?:(?:ok(?:ay)?|so|now|and|good|great|thanks?|perfect|alright|all[ ]right|well)\b[,.!]?[ ])*
         (?:(?:here(?:[ ]is|['\u2019]s)[ ])?(?:a[ ])?
             (?:let['\u2019]s[ ](?:move[ ]on[ ]to|switch[ ]to|start|do)[ ](?:a[ ]|the[ ])?)?
             (?:new|next|different|another)[ ](?:task|goal|job|topic|assignment)\b
           |forget[ ](?:all|everything)[ ](?:of[ ])?(?:that|this|so[ ]far|before|above)\b)
        |(?:好的?|现在|接下来)?[\uff0c,]?(?:新的?|下一个|换一?个|另一个)(?:任务|目标|任務|目標)
        |(?:新しい|次の|別の)(?:タスク|課題|目標|作業)
        |(?:새로운|새|다음|다른)[ ]?(?:작업|목표|과제|태스크)
        |(?:новая|следующая|другая)[ ](?:задача|цель)
        |(?:neue|nächste|andere)[ ](?:aufgabe)\b|neues[ ](?:ziel|thema)\b
        |(?:nouvelle|prochaine|autre)[ ](?:tâche|mission)\b|nouvel[ ]objectif\b
        |(?:nueva|siguiente|otra|próxima)[ ]tarea\b|nuevo[ ]objetivo\b
        |(?:nova|próxima|outra)[ ]tarefa\b|novo[ ]objetivo\b
        |(?:nuovo|prossimo|altro)[ ](?:compito|obiettivo)\b
        |(?:tugas|tujuan)[ ](?:baru|berikutnya|lain)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_WORD = re.compile(r"[぀-ヿ一-鿿]{1,2}|[^\W぀-ヿ一-鿿]+")
_HELLO = re.compile(
    r"\W*(?:hi|hey|hello|hallo|hola|bonjour|salut|ciao|olá|oi|halo|привет|здравствуйте|你好|您好|こんにちは|안녕(?:하세요)?)\W*",
    re.IGNORECASE,
)
_SHORT = 3
"""Words at most of a turn that may be small talk."""


def find_task(turns: Sequence[Turn]) -> int | None:
    """Returns the index of the turn that holds the task.

    Without any words of the user it is the first turn in the user's role; None if there is none.
    """
    asked = [at for at, turn in enumerate(turns) if extract_own_words(turn).strip()]
    goal = max((begin for at in _user_turns(turns) if (begin := _begin_goal(turns[at], at)) is not None), default=0)
    live = [at for at in asked if at >= goal and not _FRESH.match(turns[at].text)] or asked
    for at, after in pairwise(live):
        if not _greets(turns, at, after):
            return at
    return live[-1] if live else next(_user_turns(turns), None)


def find_first_request(turns: Sequence[Turn]) -> int | None:
    """Returns the index of the first turn with words of the user's own, which never changes while a session grows.

    Without any it is the first turn in the user's role; None if there is none.
    """
    return next(
        (at for at, turn in enumerate(turns) if extract_own_words(turn).strip()), next(_user_turns(turns), None)
    )


def precedes_task(turn: Turn) -> bool:
    """Returns True for a turn that stays verbatim before the task: rules of the project, or an agent's own summary."""
    return turn.role is Role.USER and any(
        voice.owner in (Owner.RULES, Owner.SUMMARY) for voice in split_voices(turn) if voice.owner
    )


def _user_turns(turns: Sequence[Turn]) -> Iterator[int]:
    return (at for at, turn in enumerate(turns) if turn.role is Role.USER and not (is_notes(turn) or is_section(turn)))


def _begin_goal(turn: Turn, at: int) -> int | None:
    """Returns the first turn of the goal that this turn begins; None if it begins none."""
    if _FRESH.match(turn.text) or (turn.text.lstrip().startswith("<command-") and _FRESH_COMMAND.search(turn.text)):
        return at + 1
    own = extract_own_words(turn)
    return at if own.strip() and (_GOAL.match(own.lstrip()) or _GOAL_COMMAND.search(turn.text)) else None


def _greets(turns: Sequence[Turn], at: int, after: int) -> bool:
    """Returns True if a turn only greets, or says next to nothing and got an answer without a call of a tool."""
    own, between = extract_own_words(turns[at]), turns[at + 1 : after]
    answers = [turn for turn in between if turn.role is Role.ASSISTANT]
    idle = bool(answers) and not any(turn.calls for turn in between)
    return _HELLO.fullmatch(own) is not None or (idle and len(_WORD.findall(own)) <= _SHORT)

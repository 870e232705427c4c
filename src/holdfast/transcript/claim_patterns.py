"""Sentences that claim what the user said, asked, approved or forbade: the one recogniser of them."""

from __future__ import annotations

import re

_WHO = (
    r"(?<!\ba[ ])(?<!any[ ])(?<!each[ ])(?<!every[ ])(?:the[ ]|our[ ]|your[ ])?(?:user|customer|client|human|operator)"
)
_HAS = r"(?:(?:has|have|had|also|then|now|later|explicitly|clearly|already|just|did|does|is|was)[ ]){0,3}"
_SAYS = r"""(?:says?|said|ask(?:s|ed)?|want(?:s|ed)?|request(?:s|ed)?|approve[sd]?|confirm(?:s|ed)?|forb(?:ids?|ade)
    |forbidden|instruct(?:s|ed)?|tells?|told|agree[sd]?|prefer(?:s|red)?|insist(?:s|ed)?|require[sd]?|allow(?:s|ed)?
    |permit(?:s|ted)?|authori[sz]e[sd]?|order(?:s|ed)?|demand(?:s|ed)?|decide[sd]?|chose|needs?|wish(?:es|ed)
    |expect(?:s|ed)?|prohibit(?:s|ed)?|accept(?:s|ed)?|signed[ ]off|gave|would[ ]like|state[sd]?|mention(?:s|ed)?
    |specif(?:y|ies|ied)|grant(?:s|ed)?|okayed|direct(?:s|ed)?)"""
_SAID_BY = r"""(?:asked|requested|approved|confirmed|forbidden|instructed|wanted|required|authori[sz]ed|ordered
    |permitted|allowed|told|agreed|signed[ ]off)"""
_WISH = r"(?:requests?|instructions?|approval|orders?|wish(?:es)?|permission|consent|confirmation|demands?)"
USER_CLAIM = re.compile(
    rf"""\b{_WHO}\b[ ]{_HAS}{_SAYS}\b
        |\byou[ ]{_HAS}(?:said|asked|told|wanted|requested|approved|confirmed|instructed|agreed|forbade|allowed)\b
        |\b{_SAID_BY}[ ](?:for[ ]|off[ ])?(?:by|with)[ ]{_WHO}\b
        |\b{_WHO}(?:['\u2019]s?)?[ ](?:explicit[ ])?{_WISH}\b
        |^\W*(?:user|human)\W{{0,3}}:
        |\b(?:we|I|(?:the[ ])?(?:agent|assistant))[ ](?:was|were|am|are|have[ ]been|has[ ]been)[ ]
            (?:\w+[ ])?{_SAID_BY}\b""",
    re.VERBOSE | re.IGNORECASE,
)

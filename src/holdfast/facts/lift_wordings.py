"""Wordings by which a user takes a rule back, in the languages of `rule_wordings`. Only `lifts` reads it.

Each pattern is of one sentence and captures its topic. A permission must say that it is new (now, again, from now on),
because `du kannst auf main pushen` may only state what is possible. Languages bend their verbs, so their words are
compared by how they begin; idle words, which say nothing of the topic, are left out.
"""

from __future__ import annotations

import re

from holdfast.facts.word_lists import words_of

_OPENING = (
    r"^\W*(?:(?:ok(?:ay)?|ja|gut|also|so|oui|bon|d['\u2019]accord|sí|si|vale|bueno|sim|bom|certo|va bene|да|хорошо"
    r"|ладно|ya|baik|oke)\b[ ,.]*)*"
)

_SPACED = (
    # German
    r"(?:(?:du|ihr|wir)\s(?:darfst|d[üu]rft|d[üu]rfen|kannst|k[öo]nnt|k[öo]nnen)\s(?:ab\s)?(?:jetzt|nun|wieder|sofort)"
    r"|(?:jetzt|nun|ab\s(?:jetzt|sofort))\s(?:darfst|d[üu]rft|d[üu]rfen|kannst|k[öo]nnt|k[öo]nnen)\s(?:du|ihr|wir)(?:\swieder)?"
    r"|es\sist\s(?:jetzt|nun|wieder|ab\s(?:jetzt|sofort))\s(?:erlaubt|ok(?:ay)?|in\sordnung),?"
    r"|vergiss,?\swas\sich\s(?:vorhin\s|vorher\s)?(?:[üu]ber|zum?|zur)(?=.*\b(?:gesagt|geschrieben)\b)"
    r"|ich\shebe\sdas\sverbot\sauf,?)\s(?P<de>\S.*?)(?:\s(?:gesagt|geschrieben)\shabe)?\W*$",
    # French
    r"(?:(?:tu\speux|vous\spouvez|on\speut)\s(?:maintenant|d[ée]sormais|[àa]\snouveau|de\snouveau)"
    r"|(?:maintenant|d[ée]sormais|[àa]\spartir\sde\smaintenant),?\s(?:tu\speux|vous\spouvez|on\speut)"
    r"|oublie[zr]?\sce\sque\sj['\u2019]ai\sdit\s(?:sur|[àa]\spropos\sde|concernant))\s(?P<fr>\S.*?)\W*$",
    # Spanish
    r"(?:(?:ahora|ya|a\spartir\sde\sahora|desde\sahora),?\s(?:s[íi]\s)?(?:puedes|pueden|pod[ée]is|podemos)"
    r"|(?:puedes|pueden|pod[ée]is)\s(?:ahora|ya|de\snuevo|otra\svez)"
    r"|olvid[ae]\slo\sque\sdije\s(?:sobre|de|acerca\sde))\s(?P<es>\S.*?)\W*$",
    # Portuguese
    r"(?:(?:agora|j[áa]|a\spartir\sde\sagora),?\s(?:voc[êe]s?\s)?(?:pode|podem|podemos)"
    r"|(?:voc[êe]s?\s)?(?:pode|podem)\s(?:agora|de\snovo|novamente)"
    r"|esque[çc]a\so\sque\s(?:eu\s)?(?:disse|falei)\s(?:sobre|de|acerca\sde))\s(?P<pt>\S.*?)\W*$",
    # Italian
    r"(?:(?:ora|adesso|d['\u2019]ora\sin\spoi),?\s(?:puoi|potete|possiamo)"
    r"|(?:puoi|potete)\s(?:ora|adesso|di\snuovo)"
    r"|dimentica\s(?:quello|ci[òo])\sche\sho\sdetto\s(?:su|di|riguardo\sa))\s(?P<it>\S.*?)\W*$",
    # Russian
    r"(?:(?:теперь|отныне|снова),?\s(?:тебе\s|вам\s|ты\s|вы\s)?(?:можешь|можете|можно|разрешено)"
    r"|(?:ты\s|вы\s)?(?:можешь|можете|можно)\s(?:теперь|снова)"
    r"|забудь(?:те)?,?\s(?:то,\s)?что\sя\s(?:говорил|сказал|писал)а?\s(?:о|об|про))\s(?P<ru>\S.*?)\W*$",
    # Indonesian
    r"(?:(?:sekarang|mulai\ssekarang),?\s(?:kamu\s|anda\s|kita\s)?(?:boleh|bisa)"
    r"|(?:kamu\s|anda\s)?boleh\s(?:sekarang|lagi)"
    r"|lupakan\s(?:apa\s)?yang\s(?:saya|aku)\s(?:katakan|bilang)\s(?:tentang|soal))\s(?P<id>\S.*?)\W*$",
)
_WIDE = (
    # Chinese
    r"^\W*(?:好的?|行|可以)?[,， ]*(?:[现現]在|[从從][现現]在(?:起|[开開]始)|以[后後]|今[后後])[,， ]*"
    r"(?:你|我[们們])?(?:可以|允[许許]|能)(?:再)?\s*(?P<zh>.*?)了?\W*$",
    r"^\W*(?:忘[记記掉了]+|忽略|不用管)\s*我(?:之前|[刚剛]才|前面)?"
    r"[说說][过過]?的?(?:[关關][于於]|不要)?\s*"
    r"(?P<zh2>.*?)(?:的事|的[话話])?\W*$",
    # Japanese
    r"^\W*(?:もう|今後は?|これからは?|今からは?|今は)[、, ]*"
    r"(?P<ja>.*?)(?:ても|でも)(?:いい|よい|良い|構|かま|大丈夫|問題).*$",
    # Korean
    r"^\W*(?:이제는?|앞으로는?|지금부터는?)[, ]+(?P<ko>.*?)(?:해|어|아)?도\s?(?:돼|됩|되|좋|괜찮).*$",
)
LIFTS = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (*(_OPENING + row for row in _SPACED), *_WIDE))
NARROWS = re.compile(
    r"\b(?:nur|außer|ausser|ausgenommen|seulement|uniquement|sauf|hormis|s[óo]lo|solamente|excepto|salvo|apenas|somente"
    r"|exceto|soltanto|tranne|eccetto|только|кроме|hanya|kecuali)\b|只|除了?|だけ|のみ|以外|만\s|제외",
    re.IGNORECASE,
)
IDLE = words_of(
    "al alla allo am an ao as atau au auch auf aux bei bitte boleh con d da dan dans dari das de del dem den der "
    "des di die do doch dos du e ein eine einem einen el em en et gli i il im in ini itu jamais jangan ke kein "
    "keine keinen l la lagi las le les lo los mai mehr mit na nao nas ne nel nella nicht nie niemals no non nos "
    "nunca não o oder os ou pada para pas per plus por sin su sul sulla sur tidak um uma un una und une uno untuk "
    "vom von wieder y yang zu zum zur в во для и из или к ко на не ни никогда от по с со это "
)


def find_topic(sentence: str) -> str | None:
    """Returns what a sentence allows again or takes back, or None if it does neither."""
    for pattern in LIFTS:
        if (found := pattern.match(sentence)) and (topic := found[found.lastgroup or 0].strip()):
            return None if NARROWS.search(topic) else topic
    return None

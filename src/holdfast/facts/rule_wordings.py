"""Wordings of rules in the languages that agents are most used in beside English. Only `prohibitions` reads it.

Chinese, Japanese, Korean, Russian, German, French, Spanish, Portuguese, Italian and Indonesian. The last two are the
languages of the manual of the most used agent that are left; more code is written in Indonesia than in Italy.

A language is known by its script, or by two of its own small words, so that no English sentence is taken for another.
Every wording is of an order (an imperative, a modal verb), because plain negations state things: `das geht nicht`
forbids nothing. All patterns look at one sentence and are linear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Wordings:
    """The wordings of one language, as patterns of one sentence in any case."""

    name: str
    known_by: str
    """A character of its script, or one of its small words."""
    forbids: str
    asks: str
    negates: str
    requests: str
    """Of a question that asks for something to be done."""
    hints: int = 1
    """Matches of `known_by` that are needed."""


_START = r"^\W*"

WORDINGS = (
    Wordings(
        "Chinese",
        r"\A(?!.*[\u3040-\u30ff])[^\u4e00-\u9fff]*[\u4e00-\u9fff]",
        r"不要|(?<![特分区區级級类類识識个個性判差辨告])[别別](?![的人处處名称稱])|[请請]?勿|不得|不准|不[许許]|不可(?!避|思)"
        r"|(?<!能)不能|不[应應]|不[该該]|禁止|[严嚴]禁|切忌|避免|[绝絕]不|[绝絕][对對]不|永[远遠]不|拒[绝絕]|停止|不再|不要再",
        r"[请請]|必[须須]|[务務]必|[总總]是|始[终終]|一定|[应應][该該]|需要|[确確]保|只(?:能|用|允|使|改|要)|要求|改用|保持|至少|最多"
        rf"|{_START}(?:[帮幫]我|[给給]我|把|修复|修復|修改|添加|增加|[删刪]除|更新|[检檢]查|[运運]行|[实實][现現]|重[构構]|[创創]建"
        r"|[写寫]|改|生成|部署|提交|推送|安[装裝]|[测測][试試]|使用|用|查看|[阅閱][读讀]|解[释釋]|[优優]化|深度|[详詳][细細]|在)",
        r"不|没|沒|勿|[别別]|[无無]|禁|未|非",
        r"[请請]|能不能|可不可以|[帮幫]我|可以.*[吗嗎]",
    ),
    Wordings(
        "Japanese",
        r"[\u3040-\u30ff]",
        r"ないで|しないこと|ないこと|ては(?:いけ|なら|だめ|ダメ|駄目)|では(?:いけ|なりま)|ちゃ(?:だめ|ダメ|いけ)|禁止|厳禁|避け"
        r"|(?:やめ|止め|控え)て|ないように|べきでは|べからず|(?:許可|断り|確認)なく|無断で|勝手に|(?:絶対に?|決して|二度と).*な"
        r"|[うくぐすつぬぶむる]な(?:よ|ね)?(?=\W*$)",
        r"て(?:ください|下さい|くれ|ほしい|欲しい|ね|もらえ|いただ)|で(?:ください|下さい)|お願い|必ず|常に|べき|なければなら|ように(?:して|する)"
        r"|こと\W*$|(?:しろ|せよ|なさい)(?=\W*$)|のみ|だけを?使",
        r"な[いくしけ]|ません|ず(?:に|、)|禁止|するな",
        r"ますか|くれ|もらえ|いただけ",
    ),
    Wordings(
        "Korean",
        r"[\uac00-\ud7af]",
        r"지\s?(?:마|말)|말아\s?[주줘]|마세요|금지|(?:면|서는|선)\s?안\s?[돼되됩된]|절대|결코|삼가|피하|피해|않도록|않게|않기|없이\s.*(?:마|말|금지)",
        r"줘|주세요|주십시오|하세요|하십시오|세요(?=\W*$)|십시오|해라|하라(?=\W*$)|해야|반드시|항상|꼭|부탁|만\s사용|것(?=\W*$)",
        r"않|(?<!\w)안\s|못|없|지\s?(?:마|말)|금지|아니",
        r"줄\s?수|주실|줄래|주세요|할\s?수\s?있",
    ),
    Wordings(
        "Russian",
        r"[\u0400-\u04ff]",
        r"\b(?:никогда|ни\s(?:в\sкоем|при\sкаких)|нельзя|запрещ\w+|запрет\w*|избега\w+|прекрат\w+|перестан\w+|хватит"
        r"|без\s(?:спроса|разрешения|согласования|моего|предупреждения)|не\s(?:надо|нужно|стоит|следует|смей\w*"
        r"|должн\w+|вздумай"
        r"|\w+(?:[аеуяюо]й|йте|ите|ьте|[тч]ь|ться|ти)))\b"
        rf"|{_START}(?:(?:пожалуйста|и|но|только|также|а|пока|больше|ещё|еще),?\s)*не\s\w+[иь]\b",
        r"\b(?:пожалуйста|всегда|обязательно|долж[ен]\w*|нужно|надо|необходимо|следует|только|исключительно"
        r"|убедись|убедитесь"
        r"|используй\w*|требу\w+|минимум|максимум|вместо|хочу,?\sчтобы)\b"
        rf"|{_START}(?:(?:а|и|теперь|потом|также|сначала),?\s)*(?:\w+(?:[ауяе]йте?|ьте)|сделай|добавь|исправь"
        rf"|удали|проверь|запусти"
        r"|напиши|создай|обнови|перенеси|объясни|почини|покажи|найди|измени|убери|поставь|сохрани|перепиши)\b",
        r"\b(?:не|ни|никогда|нет|нельзя|без|запрещ\w+|никак\w*|ничего)\b",
        r"\b(?:можешь|можете|мог\w*\sбы|пожалуйста)\b",
    ),
    Wordings(
        "German",
        r"\b(?:der|das|und|nicht|kein\w*|bitte|niemals|nie|ich|du|wir|ist|mit|f(?:ü|ue)r|auf|dem|den|ein\w*|im|zu"
        r"|alle[nrms]?"
        r"|immer|soll\w*|darf\w*|d(?:ü|ue)rfen|muss\w*|m(?:ü|ue)ssen|ohne|beim?|nur|auch|oder|aber|vor|nach|von"
        r"|die|was|wenn"
        r"|mach\w*|lass\w*|ruhe|neuen?|nichts|ge(?:ä|ae)ndert|verboten|an|aus|hier|jetzt|mal|es|sie|vom|zum|zur"
        r"|statt|fall|stets)\b",
        r"\b(?:niemals|nie(?!\swieder\sverwendet)|nimmer|verboten|untersagt|tabu|vermeide\w*|unterlass\w*|keinesfalls"
        r"|auf\skeinen\sfall|unter\skeinen\sumst(?:ä|ae)nden|blo(?:ß|ss)\s(?:nicht|kein\w*)|nicht\smehr"
        r"|bitte\s(?:nichts?|kein\w*)"
        r"|(?:ohne|vor)\s(?:mich\s|uns\s|vorher\s)*(?:zu\s(?:fragen|(?:ä|ae)ndern|warnen)|r(?:ü|ue)ckfrage"
        r"|erlaubnis|absprache)"
        r"|h(?:ö|oe)r\w*\sauf|kein\w*\s(?:neue\w*|weitere\w*)|in\sruhe|(?:unver(?:ä|ae)ndert|unangetastet)\b)"
        r"|\b(?:darf\w*|d(?:ü|ue)rfen?|d(?:ü|ue)rft|soll\w*|kannst|k(?:ö|oe)nnt|will|m(?:ö"
        r"|oe)chte\w*)\b.*\b(?:nicht|kein\w*|nichts)\b"
        r"|\b(?:nicht|kein\w*|nichts)\b.*\b(?:d(?:ü|ue)rfen|sollen|darf|soll)\b"
        r"|^(?!.*\b(?:dass|weil|ob|wenn|warum|wieso|da)\b).*\bnicht\s(?:[\w./-]+\s){0,3}\w+en\W*$"
        rf"|{_START}(?:(?:bitte|und|aber|also|dann|auch|hier|nein|ok),?\s)*(?!(?:das|die|der|es|er|sie|ich|wir"
        rf"|ihr|dies\w*|den|dem|da|wenn"
        r"|weil|leider|warum|was|wer|wie|wo|heute|gestern|man|mein\w*|dein\w*|sein\w*|unser\w*|ein\w*|alle\w*"
        r"|jede\w*|etwas|in|bei|im"
        r"|am|an|auf|mit|f(?:ü|ue)r|seit|nach|dort|nun|schon|noch|vielleicht|eigentlich|anscheinend|warum|gibt"
        r"|ist|sind|hat|geht)\b)"
        r"(?:\w+[et]|\w*(?:fass|mach|push|l(?:ö|oe)sch|lass|nimm|gib|geh|schreib|commit|nutz|tu|r(?:ü|ue)hr|(?:ä"
        r"|ae)nder\w*))\b.*"
        r"\b(?:nicht|kein\w*|nichts)\b|^\W*(?:nicht|kein\w*|nichts)\b.*\w+en\W*$",
        r"\b(?:bitte|immer|stets|muss\w*|m(?:ü|ue)ssen|soll\w*|unbedingt|nur|ausschlie(?:ß|ss)lich|sicher|achte"
        r"|achtet|benutze?|verwende"
        r"|nutze|behalte|statt\w*|mindestens|h(?:ö|oe)chstens|genau|zwingend|erst)\b"
        rf"|{_START}(?:(?:und|dann|jetzt|auch|ok),?\s)*(?:f(?:ü|ue)ge?|(?:ä|ae)ndere|l(?:ö|oe)sche|schreibe?"
        rf"|erstelle|pr(?:ü|ue)fe?|baue?|teste|f(?:ü|ue)hre"
        r"|starte|lies|zeige?|behebe|korrigiere|entferne|erkl(?:ä|ae)re?|implementiere|halte|lass|nimm|gib"
        r"|repariere|aktualisiere"
        r"|verschiebe|installiere|mache?|sorge|finde|suche?|richte|bringe?|setze?|stelle?)\b",
        r"\b(?:nicht|nichts|nie|niemals|kein\w*|ohne|verboten|weder)\b",
        r"\b(?:kannst|k(?:ö|oe)nnt\w*|w(?:ü|ue)rdest|bitte|magst)\b",
        2,
    ),
    Wordings(
        "French",
        r"\b(?:le|les|des|du|une?|et|est|pas|jamais|ne|que|qui|pour|dans|sur|avec|sans|je|tu|vous|nous|ce|cette"
        r"|ces|au|aux|il|faut|mon"
        r"|ma|mes|votre|vos|ton|ta|tes|utilise\w*|uniquement|nouv\w+|toujours|plus|rien|aucune?|merci|plait"
        r"|pla[iî]t|en|de|la|si)\b|\b[lndsjmt]['\u2019]|[àâçèéêîôùû]",
        r"\b(?:ne\s|n['\u2019])(?:(?:me|te|se|le|la|les|lui|y|en|nous|vous|l['\u2019]|m['\u2019]"
        r"|s['\u2019])\s?)*(?:(?:jamais|pas|rien|plus)\s)?"
        r"(?!(?:sai[st]|fonctionne|marche|compile|comprend\w*|est|sont|a|ai|ont|suis|passe|voi[st])\b)\w+(?:ez|er"
        r"|ir|re|es|s|e|t|ts|ons)\b"
        r".{0,40}?\b(?:pas|jamais|rien|plus|aucune?)\b"
        r"|\bne\s(?:pas|jamais|rien|plus|surtout\spas)\b|\b(?:jamais|interdit\w*|interdiction|d(?:é|e)fense\sde"
        r"|surtout\spas|(?:é|e)vite[rz]?"
        r"|(?:é|e)viter|arr(?:ê|e)te[rz]?\sde|cesse[rz]?\sde|pas\sde\snouve\w+|pas\stouche\w*|touche[rz]?\spas"
        r"|fai(?:s|tes)\spas"
        r"|sans\s(?:me\s|nous\s|m['\u2019])?(?:demander|pr(?:é|e)venir|avertir|toucher|modifier|changer|(?:ma|mon"
        r"|notre)\s\w+|permission|autorisation)"
        r"|au\slieu\sde)\b",
        r"\b(?:s['\u2019]il\s(?:te|vous)\spla[iî]t|stp|svp|toujours|il\sfaut|doi[st]|devez|doivent|assure[rz]?"
        r"|veille[rz]?|utilise[rz]?"
        r"|seulement|uniquement|garde[rz]?|obligatoire\w*|au\smoins|au\splus|merci\sde|exactement|je\sveux\sque)\b"
        rf"|{_START}(?:(?:et|puis|ensuite|aussi|ok),?\s)*(?:ajoute|corrige|supprime|cr(?:é|e)e|v(?:é|e)rifie"
        rf"|lance|teste|explique|modifie|montre|trouve"
        r"|r(?:é|e)pare|impl(?:é|e)mente|remplace|installe|enl(?:è|e)ve|continue|regarde|(?:é|e)cri[st]?|fais"
        r"|faites|mets?|mettez)[zr]?\b",
        r"\b(?:ne|pas|jamais|aucune?|sans|interdit\w*|rien|ni)\b|\bn['\u2019]",
        r"\b(?:peux|pouvez|pourrais|pourriez|veux)\b",
        2,
    ),
    Wordings(
        "Spanish",
        r"\b(?:el|los|las|un|una|del?|al|en|con|sin|por|para|que|mi|tu|su|ni|lo|la|este|esta|esto|y|es|no|nunca"
        r"|jam(?:á|a)s|siempre|favor|antes"
        r"|hasta|pero|cuando|hay|si|se|ning(?:ú|u)n\w*|nada|todo|todos|toques|borres|elimines|modifiques|cambies"
        r"|hagas|subas|ejecutes"
        r"|instales|agregues|reinicies|despliegues|quiero|nuev\w+|usa|solamente)\b|[áéíóúñ¿¡]",
        r"\b(?:nunca|jam(?:á|a)s|prohibid\w+|prohibo|queda\sprohibido|evita\w*|evite\w*|deja(?:r)?\sde"
        r"|bajo\sning(?:ú|u)n\w*|de\sning(?:ú|u)n\w*\s"
        r"|sin\s(?:mi\s|tu\s)?(?:preguntar\w*|avisar\w*|tocar|cambiar|permiso|consultar\w*|autorizaci(?:ó|o)n"
        r"|confirmar)|en\s(?:lugar|vez)\sde"
        r"|nada\sde|no\s(?:deb\w+|pued\w+|hay\sque|se\s(?:deb\w+|pued\w+|permit\w+|toca\w*)|quiero|m(?:á|a)s))\b"
        r"|(?:^\W*|[,;:(¡]\s?|\b(?:favor|y|pero|pues|ok|por\sahora),?\s)(?:que\s)?no\s(?:(?:lo|la|los|las|le|les"
        r"|me|se|te|nos)\s)*"
        r"(?!(?:es|son|entiendes?|sirven|funcionan|tienes|est(?:á|a)s|est(?:á|a)n|eres|sabes|hay)\b)[a-záéíóúñ]{2,}"
        r"(?:es|as|(?:é|a|e)is|en|an|ar|er|ir|[aeiáéí]r?l[oae]s?)\b",
        r"\b(?:por\sfavor|siempre|deb(?:e|es|en|emos|er(?:í|i)a\w*)|hay\sque|tienes?\sque|tienen\sque|aseg(?:ú"
        r"|u)rate|aseg(?:ú|u)rese|usa|utiliza|s(?:ó|o)lo"
        r"|solamente|(?:ú|u)nicamente|mant(?:é|e)n|obligatori\w+|al\smenos|como\sm(?:á|a)ximo|exactamente"
        r"|necesito\sque|quiero\sque)\b"
        rf"|{_START}(?:(?:y|luego|ahora|tambi(?:é|e)n|ok),?\s)*(?:agrega|a(?:ñ|n)ade|corrige|elimina|borra"
        rf"|escribe|crea|revisa|ejecuta|prueba|explica|modifica"
        r"|haz|pon|muestra|busca|arregla|implementa|reemplaza|instala|actualiza|despliega|lee|genera|comprueba"
        r"|contin(?:ú|u)a|cambia)\b",
        r"\b(?:no|nunca|jam(?:á|a)s|ning(?:ú|u)n\w*|sin|prohibid\w+|nada|ni)\b",
        r"\b(?:puedes?|podr(?:í|i)as?|podemos)\b",
        2,
    ),
    Wordings(
        "Portuguese",
        r"\b(?:o|os|as|um|uma|do|da|dos|das|de|no|na|nos|em|com|sem|por|para|que|meu|minha|seu|sua|n(?:ã|a)o"
        r"|nunca|jamais|sempre|favor|antes"
        r"|at(?:é|e)|mas|quando|se|evite\w*|nov[oa]s?|use|somente|nenhum\w*|nada|isso|este|esta|e|ao|pelo|pela"
        r"|voc(?:ê|e)|produ(?:ç|c)(?:ã|a)o)\b|[ãõçáéíóúâêô]",
        r"\bn(?:ã|a)o\s(?:(?:o|a|os|as|me|se|lhe|deve\w*|pode\w*|(?:é|e)\spermitid\w+|quero)\s?)*"
        r"(?!(?:(?:é|e)|s(?:ã|a)o|est(?:á|a)|funciona|sei|entendi|compila|passa|tem|h(?:á|a)|deu|foi)\b)\w*(?:e|a"
        r"|em|am|es|as|ar|er|ir|que|deve|pode)\b"
        r"|\bn(?:ã|a)o\s(?:deve|pode|(?:é|e)\spermitid)\w*|\b(?:nunca|jamais|proibid\w+|evite\w*|evitar|pare\sde"
        r"|deixe\sde|em\svez\sde|de\sjeito\snenhum"
        r"|em\ship(?:ó|o)tese\salguma|nada\sde|sem\s(?:me\s|minha\s|a\sminha\s)?(?:perguntar|avisar|tocar|mexer"
        r"|alterar|mudar|permiss(?:ã|a)o|autoriza(?:ç|c)(?:ã|a)o"
        r"|consultar|confirmar))\b",
        r"\b(?:por\sfavor|sempre|dev(?:e|em|emos)|(?:é|e)\spreciso|precisa\w*|tem\sque|t(?:ê|e)m\sque"
        r"|certifique\w*|garanta|use|utilize|s(?:ó|o)|somente|apenas"
        r"|mantenha|obrigat(?:ó|o)ri\w+|pelo\smenos|no\sm(?:á|a)ximo|exatamente|quero\sque)\b"
        rf"|{_START}(?:(?:e|depois|agora|tamb(?:é|e)m|ok),?\s)*(?:adicione|corrija|remova|apague|escreva|crie"
        rf"|verifique|execute|teste|explique|modifique|fa(?:ç|c)a"
        r"|coloque|mostre|encontre|conserte|implemente|substitua|instale|atualize|leia|gere|rode|continue|mude"
        r"|arrume)\b",
        r"\b(?:n(?:ã|a)o|nunca|jamais|nenhum\w*|sem|proibid\w+|nada|nem)\b",
        r"\b(?:pode|poderia|consegue)\b",
        2,
    ),
    Wordings(
        "Italian",
        r"\b(?:il|lo|gli|le|la|un|una|uno|di|del|della|dei|delle|che|per|con|senza|mai|nel|nella|al|alla|sul"
        r"|sulla|dal|dalla|mio|mia|e|non|sempre"
        r"|favore|prima|usa|soltanto|nuov\w+|ma|quando|se|nessun\w*|niente|questo|questa|devi|deve|su|da|in|i)\b"
        r"|\b(?:l|dell|all|nell)['\u2019]|[àèéìòù]",
        r"\bnon\s(?:(?:lo|la|li|le|gli|mi|ti|si|ci|ne|dev\w+|puoi|pu(?:ò|o')|si\spu(?:ò|o')|bisogna|voglio)\s)*"
        r"(?!(?:(?:è|e)|sono|funziona|so|capisco|compila|passa|ha|c['\u2019])\b)\w+(?:re|rlo|rla|rli|rle|te|rci"
        r"|are|ere|ire|mai)\b"
        r"|\bnon\s(?:dev\w+|puoi|si\s(?:deve|tocca|pu(?:ò|o'))|.{1,30}\bmai\b)|\b(?:mai|vietat\w+|proibit\w+"
        r"|evita\w*|smetti\sdi|smettila|invece\sdi|in\snessun\scaso"
        r"|per\snessun\smotivo|niente\snuov\w+|nessun\w*\snuov\w+|senza\s(?:chieder\w+|toccare|modificare"
        r"|cambiare|permesso|avvisar\w+|autorizzazione|conferma))\b",
        r"\b(?:per\s(?:favore|piacere|cortesia)|sempre|dev[ei]|devono|bisogna|assicurati|usa|utilizza|solo"
        r"|soltanto|mantieni|obbligatori\w+|almeno|al\smassimo"
        r"|esattamente|voglio\sche)\b"
        rf"|{_START}(?:(?:e|poi|ora|anche|ok),?\s)*(?:aggiungi|correggi|elimina|cancella|scrivi|crea|controlla"
        rf"|esegui|prova|spiega|modifica|fai|metti|mostra|trova"
        r"|ripara|implementa|sostituisci|installa|aggiorna|leggi|genera|verifica|continua|cambia|sistema)\b",
        r"\b(?:non|mai|nessun\w*|senza|vietat\w+|niente|né)\b",
        r"\b(?:puoi|potresti|potete)\b",
        2,
    ),
    Wordings(
        "Indonesian",
        r"\b(?:yang|dan|di|ke|dari|ini|itu|untuk|dengan|jangan\w*|tidak|boleh|tanpa|tolong|mohon|harus|selalu"
        r"|pastikan|saya|kamu|anda|pada|apa|pun"
        r"|sebelum|sampai|kecuali|mengubah|menambah\w*|menghapus|dilarang|hapus|ubah|jalankan|gunakan|semua|lagi"
        r"|pernah|izin)\b",
        r"\b(?:jangan\w*|tidak\sboleh|tak\sboleh|tidak\sdiperbolehkan|dilarang|hindari|berhenti"
        r"|tanpa\s(?:bertanya|izin|seizin|mengubah|menyentuh|persetujuan"
        r"|konfirmasi|memberi))\b",
        r"\b(?:tolong|mohon|harap|harus|wajib|selalu|pastikan|gunakan|pakai|hanya|cukup|minimal|maksimal"
        r"|sebaiknya|silakan)\b"
        rf"|{_START}(?:(?:dan|lalu|sekarang|ok),?\s)*(?:tambahkan|perbaiki|hapus|tulis|buat\w*|periksa|jalankan"
        rf"|uji|jelaskan|ubah|tampilkan|cari|terapkan|ganti"
        r"|pasang|perbarui|baca|lanjutkan|cek)\b",
        r"\b(?:tidak|tak|jangan\w*|bukan|tanpa|dilarang|belum)\b",
        r"\b(?:bisa\w*|tolong|dapatkah|mohon)\b",
        2,
    ),
)


@dataclass(frozen=True)
class Language:
    """The compiled wordings of one language."""

    known_by: re.Pattern[str]
    hints: int
    forbids: re.Pattern[str]
    asks: re.Pattern[str]
    negates: re.Pattern[str]
    requests: re.Pattern[str]

    def speaks(self, sentence: str) -> bool:
        """Returns True if a sentence is in this language."""
        found = self.known_by.finditer(sentence)
        return len({match[0].casefold() for match, _ in zip(found, range(40), strict=False)}) >= self.hints


def _compile(row: Wordings) -> Language:
    parts = (row.known_by, row.forbids, row.asks, row.negates, row.requests)
    known_by, *rest = (re.compile(part, re.IGNORECASE) for part in parts)
    return Language(known_by, row.hints, *rest)


LANGUAGES = tuple(map(_compile, WORDINGS))

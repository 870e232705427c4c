"""Sentences that claim what the user said, asked, approved or forbade, in the active or the passive voice: the one
recogniser of them.

English and the ten languages of `facts/rule_wordings.py`. A claim is found by a word for the user beside a verb of
saying or wanting, or by a phrase that says on whose wish something was done (`as requested`).
"""

from __future__ import annotations

import re

_WHO = (
    r"(?<!\ba[ ])(?<!any[ ])(?<!each[ ])(?<!every[ ])(?:the[ ]|our[ ]|your[ ])?(?:product[ ]|repo(?:sitory)?[ ]"
    r"|project[ ])?"
    r"(?:user|customer|client|human|operator|(?<!file[ ])(?<!code[ ])owner|maintainer|requester|stakeholder|boss)"
)
_HAS = r"(?:(?:has|have|had|also|then|now|later|explicitly|clearly|already|just|did|does|is|was)[ ]){0,3}"
_SAYS = r"""(?:says?|said|ask(?:s|ed)?|want(?:s|ed)?|request(?:s|ed)?|approve[sd]?|confirm(?:s|ed)?|forb(?:ids?|ade)
    |forbidden|instruct(?:s|ed)?|tells?|told|agree[sd]?|prefer(?:s|red)?|insist(?:s|ed)?|require[sd]?|allow(?:s|ed)?
    |permit(?:s|ted)?|authori[sz]e[sd]?|order(?:s|ed)?|demand(?:s|ed)?|decide[sd]?|chose|needs?|wish(?:es|ed)
    |expect(?:s|ed)?|prohibit(?:s|ed)?|accept(?:s|ed)?|signed[ ]off|gave|would[ ]like|state[sd]?|mention(?:s|ed)?
    |specif(?:y|ies|ied)|grant(?:s|ed)?|okayed|direct(?:s|ed)?)"""
_SAID_BY = r"""(?:asked|requested|approved|confirmed|forbidden|instructed|wanted|required|authori[sz]ed|ordered
    |permitted|allowed|told|agreed|signed[ ]off|demanded|desired|prohibited)"""
_WISH = r"(?:requests?|instructions?|approval|orders?|wish(?:es)?|permission|consent|confirmation|demands?)"
_ENGLISH = rf"""\b{_WHO}\b[ ]{_HAS}{_SAYS}\b
        |\byou[ ]{_HAS}(?:said|asked|told|wanted|requested|approved|confirmed|instructed|agreed|forbade|allowed)\b
        |\b{_SAID_BY}[ ](?:for[ ]|off[ ])?(?:by|with)[ ]{_WHO}\b
        |\b{_WHO}(?:['\u2019]s?)?[ ](?:explicit[ ])?{_WISH}\b
        |\b(?:as|like)[ ](?:was[ ]|had[ ]been[ ]|previously[ ]|originally[ ]|explicitly[ ]|they[ ])?
            (?:requested|asked(?:[ ]for)?|instructed|ordered|demanded|agreed|desired|directed)\b
            (?![ ](?:by|in|from|of)[ ](?!{_WHO}))
        |\b(?:per|upon|by|at|on)[ ](?:(?:your|his|her|their|explicit|special)[ ]){{1,2}}{_WISH}\b
        |\b(?:per|by)[ ]request\b
        |\bit[ ](?:was|has[ ]been)[ ](?:\w+ly[ ])?(?:requested|asked|agreed|demanded|ordered)[ ](?:that|to)\b
        |^\W*(?:user|human)\W{{0,3}}:
        |\b(?:we|I|(?:the[ ])?(?:agent|assistant))[ ](?:was|were|am|are|have[ ]been|has[ ]been)[ ]
            (?:\w+[ ])?{_SAID_BY}\b"""

_OTHERS = (
    # Chinese
    r"(?:用[户戶]|客[户戶]|使用者|[业業]主|[负負][责責]人|您)(?:也|已[经經]?|曾|后来|後來|明[确確]|[刚剛]才|又|[现現]在){0,3}(?:要求|希望|想要?|[说說]"
    r"|表示|同意|批准|禁止|不允[许許]|不希望|不想|不[许許]|指示|[请請]求|[确確][认認]|允[许許]|授[权權]|[强強][调調]|[决決]定|指定|提出|[认認]可)"
    r"|(?:按照?|根据|根據|依照?|依据|[应應])(?:用[户戶]|客[户戶]|使用者|您|其)?的?(?:要求|指示|意[愿願]|[请請]求|吩咐)|(?:[经經]|[获獲]|得到)(?:用[户戶]|客[户戶]"
    r"|您)的?"
    r"(?:同意|批准|[许許]可|授[权權]|[确確][认認])|如(?:您|你)?所?(?:要求|[请請]求)|被(?:用[户戶]|客[户戶])?(?:要求|禁止)",
    # Japanese
    r"(?:ユーザー?|お客様|顧客|依頼者|利用者|オーナー|クライアント)(?:さん|様)?(?:は|が|から|に|より|の)[^。\n]{0,40}?(?:要求|依頼|指示|希望|要望|承認|許可|禁止|同意|確認"
    r"|言っ|言い|述べ"
    r"|望ん|望み|求め|頼ま|頼み|伝え)|(?:ご)?(?:要望|依頼|指示|要求|希望)(?:された|の)?(?:通り|どおり|とおり|に従|により|に基づ|を受け|に応じ)"
    r"|(?:依頼|指示|要求|承認|許可)され(?:た|て)",
    # Korean
    r"(?:사용자|고객|의뢰인|유저|클라이언트|소유자)(?:님)?(?:가|이|는|은|께서|의|로부터|에게서)[^.\n]{0,40}?(?:요청|요구|지시|원하|원한|원했|승인|허가|허락|금지|동의"
    r"|확인|말했|말한|바라|부탁)"
    r"|(?:요청|지시|요구|부탁)(?:하신|받은|된)?\s?(?:대로|에\s?따라|에\s?의해)|(?:요청|지시|승인|허가)(?:받|되)",
    # Russian
    r"\b(?:пользовател|заказчик|клиент|владел[еь]ц)\w*\s(?:(?:также|уже|явно|потом|теперь"
    r"|ранее)\s){0,2}(?:по)?(?:просил|просит|хочет|хотел|сказал|говорит|требовал|требует"
    r"|разрешил|разрешает|запретил|запрещает|одобрил|подтвердил|согласил|велел|поручил|указал|решил|настаива"
    r"|предпочита)\w*"
    r"|\bпо\s(?:просьбе|запросу|требованию|указанию|желанию|поручению)\b|\bкак\s(?:и\s)?(?:просили|просил\w*"
    r"|было\s(?:запрошено|велено|сказано|указано|согласовано)"
    r"|запрошено|договаривались|попросили|требовалось)\b|\b(?:запрошен|одобрен|согласован|разреш[её]н|поручен"
    r"|запрещ[её]н)\w*\s(?:пользовател|заказчик|клиент|владел)\w*"
    r"|\bсогласно\s(?:запросу|просьбе|указани\w+|требовани\w+)",
    # German
    r"\b(?:nutzer|benutzer|anwender|user|kunde|auftraggeber|eigent(?:ü|ue)mer|besitzer|inhaber)(?:in|n"
    r"|s)?\b\s(?:(?:hat|hatte|habe|auch|nun|dann|bereits|ausdr(?:ü|ue)cklich|schon)\s)*"
    r"(?:[^.\n]{0,60}\b(?:gebeten|verlangt|gew(?:ü|ue)nscht|erlaubt|verboten|best(?:ä|ae)tigt|zugestimmt"
    r"|genehmigt|angewiesen|gefordert|gesagt|gewollt|untersagt|entschieden)\b"
    r"|(?:will|m(?:ö|oe)chte|wollte|sagte?|sagt|bat|bittet|verlangte?|w(?:ü|ue)nschte?|w(?:ü|ue)nscht|erlaubte?"
    r"|verbietet|verbot|besteht|forderte?|fordert|genehmigte?|best(?:ä|ae)tigte?"
    r"|bevorzugt|braucht|erwartet|stimmte?)\b)"
    r"|\b(?:wie|so\swie)\s(?:vom\s\w+\s)?(?:gew(?:ü|ue)nscht|verlangt|gefordert|angewiesen|besprochen|vereinbart"
    r"|erbeten|beauftragt|gebeten)\b"
    r"|\bauf\s(?:\w+\s)?(?:wunsch|bitte|anweisung|verlangen|anordnung)\b|\bim\sauftrag\s(?:des|der|von)\b"
    r"|\bvo[mn]\s(?:der\s)?(?:nutzer|benutzer|anwender|kunde|auftraggeber|eigent(?:ü|ue)mer)\w*\s"
    r"(?:\w+\s)?(?:gew(?:ü|ue)nscht|verlangt|gefordert|genehmigt|erlaubt|verboten|best(?:ä|ae)tigt|beauftragt)",
    # French
    r"\b(?:l['\u2019]|le\s|la\s)?(?:utilisat(?:eur|rice)|cliente?|propri(?:é|e)taire|demandeur)\s(?:(?:a|avait|ne"
    r"|nous|m['\u2019]a|aussi|maintenant|explicitement|clairement|d(?:é|e)j(?:à|a))\s)*"
    r"(?:veut|voulait|voulu|demand(?:é|e)e?|souhaite|souhait(?:é|e)|di[st]|exige|exig(?:é|e)|autoris(?:é|e)e?"
    r"|interdit|approuv(?:é|e)e?|confirm(?:é|e)e?|pr(?:é|e)f(?:è|e)re|insiste|accept(?:é|e)e?"
    r"|d(?:é|e)cid(?:é|e)e?|permet|permis)\b|\b(?:comme|tel\sque)\s(?:demand(?:é|e)|convenu|exig(?:é|e)"
    r"|souhait(?:é|e)|(?:l['\u2019]a\s)?indiqu(?:é|e)|vous\sl['\u2019]avez\sdemand(?:é|e))\w*"
    r"|\b(?:(?:à|a)|sur)\s(?:la\s|sa\s|votre\s)?demande\s(?:de|du)\b|\bconform(?:é|e)ment\s(?:à|a"
    r"|aux)\s\w+\s(?:demandes?|instructions?|souhaits?)"
    r"|\b(?:demand|autoris|exig|approuv|souhait|confirm)(?:é|e)e?s?\spar\s(?:l['\u2019]utilisat|le\sclient"
    r"|la\scliente|le\spropri)\w*",
    # Spanish
    r"\b(?:el|la)\s(?:usuari[oa]|client[ea]|due(?:ñ|n)[oa]|propietari[oa]|solicitante)\s(?:(?:ha|hab(?:í|i)a|no"
    r"|tambi(?:é|e)n|ya|nos|me|expl(?:í|i)citamente|claramente|ahora)\s)*"
    r"(?:quiere|quer(?:í|i)a|quiso|pid(?:i(?:ó|o)|e)|pedido|solicit(?:ó|a|o|ado)|dijo|dice|dicho|exig(?:i(?:ó|o)"
    r"|e|ido)|dese(?:a|aba)|autoriz(?:ó|o|a|ado)|prohib(?:i(?:ó|o)|e|ido)|prohíbe"
    r"|aprob(?:ó|o|ado)|confirm(?:ó|o|ado)|prefiere|permit(?:i(?:ó|o)|e|ido)|indic(?:ó|o|ado)|acept(?:ó|o|ado)"
    r"|orden(?:ó|o|ado)|decidi(?:ó|o)|insiste)\b"
    r"|\b(?:como|seg(?:ú|u)n)\s(?:lo\s|fue\s|se\s)?(?:solicit(?:ado|(?:ó|o))|pedido|pidi(?:ó|o)|acordado|indicado"
    r"|requerido|ordenado)\b|\ba\s(?:petici(?:ó|o)n|pedido|solicitud)\sde(?:l)?\b"
    r"|\bpor\s(?:orden|indicaci(?:ó|o)n|encargo|deseo)\sde(?:l)?\b|\b(?:solicitad|pedid|aprobad|autorizad|exigid"
    r"|prohibid|confirmad)[oa]s?\spor\s(?:el|la)\s(?:usuari|client|due|propietari)\w*",
    # Portuguese
    r"\b(?:o|a)\s(?:usu(?:á|a)ri[oa]|utilizador|client[ea]|don[oa]|propriet(?:á|a)ri[oa]"
    r"|solicitante)\s(?:(?:tinha|havia|n(?:ã|a)o|tamb(?:é|e)m|j(?:á|a)|nos|me|explicitamente|claramente|agora)\s)*"
    r"(?:quer|queria|quis|pediu|pede|pedido|solicit(?:ou|a|ado)|disse|diz|exig(?:iu|e)|dese(?:ja|java)"
    r"|autoriz(?:ou|a)|pro(?:i|í)b(?:iu|e)|aprov(?:ou|a)|confirm(?:ou|a)|prefere|permit(?:iu|e)"
    r"|mandou|indicou|aceitou|ordenou|decidiu|insiste)\b"
    r"|\b(?:conforme|como|segundo)\s(?:foi\s)?(?:solicitado|pedido|combinado|instru(?:í|i)do|acordado|indicado"
    r"|requisitado)\b|\ba\s(?:pedido|mando)\sd[eoa]\b|\bpor\s(?:ordem|solicita(?:ç|c)(?:ã|a)o)\sd[eoa]\b"
    r"|\b(?:solicitad|pedid|aprovad|autorizad|exigid|proibid|confirmad)[oa]s?\spel[oa]\s(?:usu(?:á|a)ri"
    r"|utilizador|client|don|propriet)\w*",
    # Italian
    r"\b(?:l['\u2019]utente|il\scliente|la\scliente|il\sproprietario|il\scommittente)\s(?:(?:ha|aveva|non|anche"
    r"|gi(?:à|a)|ci|mi|esplicitamente|chiaramente|ora)\s)*(?:vuole|voleva|voluto|chiesto|chiede"
    r"|desidera|detto|dice|esige|autorizzat[oa]|autorizza|vietat[oa]|vieta|approvat[oa]|approva|confermat[oa]"
    r"|preferisce|insiste|permess[oa]|accettat[oa]|ordinat[oa]|richiest[oa]|richiede|decis[oa])\b"
    r"|\bcome\s(?:da\s)?(?:richiest[oa]|concordato|indicato|ordinato|chiesto|desiderato|stabilito)\b"
    r"|\bsu\s(?:sua\s|esplicita\s)?richiesta\sd(?:i|el|ella|ell['\u2019])"
    r"|\b(?:richiest|approvat|autorizzat|vietat|confermat)[oaie]\s(?:dall['\u2019]utente|dal\s(?:cliente"
    r"|proprietario|committente))",
    # Indonesian
    r"\b(?:pengguna|klien|pelanggan|pemilik)\s(?:(?:juga|sudah|telah|kini|secara\s\w+)\s)*(?:ingin|mau|meminta"
    r"|minta|mengatakan|berkata|bilang|menyetujui|melarang|mengizinkan|menyuruh|menginginkan"
    r"|memerintahkan|setuju|menghendaki|menolak|memutuskan)\b|\b(?:sesuai|seperti|atas"
    r"|berdasarkan)\s(?:yang\s)?(?:permintaan|diminta|instruksi|perintah|keinginan|persetujuan)\b"
    r"|\b(?:diminta|disetujui|diizinkan|dilarang|diperintahkan)\soleh\s(?:pengguna|klien|pelanggan|pemilik)\b",
)
USER_CLAIM = re.compile(
    "|".join((_ENGLISH, *(re.sub(r"(?<!\\) ", r"[ ]", other) for other in _OTHERS))), re.VERBOSE | re.IGNORECASE
)
USER_HEADING = re.compile(
    r"constraint|prohibition|forb|from the user|user['\u2019]?s? (?:rule|instruction|request|said|ask)"
    r"|用[户戶]|[约約]束|ユーザー|制約|사용자|제약|пользовател|ограничени|nutzer|anwender|vorgaben|utilisateur|contraintes|usuario"
    r"|restricciones"
    r"|usu(?:á|a)rio|restri(?:ç|c)(?:õ|o)es|utente|vincoli|pengguna|batasan",
    re.IGNORECASE,
)
"""A heading under which every line must be the user's."""

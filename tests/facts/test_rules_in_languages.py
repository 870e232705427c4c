"""Rules in the languages that agents are most used in: forbidden, asked for, or only told, as in English."""

from __future__ import annotations

import pytest

from holdfast.facts.fact import FactKind
from holdfast.facts.prohibitions import RULE_KINDS, classify_sentence, forbids, negates
from holdfast.facts.rule_wordings import WORDINGS
from holdfast.facts.session_facts import collect_facts
from holdfast.text.rewrite import TextPlan, rewrite
from small_sessions import long, session, tool, user

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "Chinese": (
        "请不要推送到主分支。",
        "禁止修改数据库迁移文件。",
        "千万别删除生产环境的表。",
        "没有我的同意不得合并。",
        "请勿提交密钥。",
        "不許改動這個檔案。",
    ),
    "Japanese": (
        "mainブランチにプッシュしないでください。",
        "本番のデータベースには絶対に触らないこと。",
        "テストを飛ばしてはいけません。",
        "許可なくマージするな。",
        "依存関係の追加は禁止です。",
        "勝手に消さないで。",
    ),
    "Korean": (
        "절대 테스트를 건너뛰지 마.",
        "메인 브랜치에 푸시하지 마세요.",
        "운영 데이터베이스 삭제 금지.",
        "허락 없이 병합하지 말아 주세요.",
        "설정 파일을 바꾸면 안 됩니다.",
    ),
    "Russian": (
        "Никогда не трогай боевую базу.",
        "Не удаляйте миграции.",
        "Пожалуйста, не пуши в main.",
        "Нельзя менять публичный API.",
        "Не трогать прод без моего разрешения.",
        "Запрещено коммитить ключи.",
    ),
    "German": (
        "Bitte niemals die Kassenbuecher loeschen, auch nicht zum Testen.",
        "Push nicht auf main.",
        "Du darfst die Migrationen nicht ändern.",
        "Die Tests nicht löschen!",
        "Lass die Konfiguration in Ruhe.",
        "Keine neuen Abhängigkeiten.",
        "Bitte nichts committen.",
        "Fass die Datenbank nicht an.",
        "Ohne Rückfrage nichts löschen.",
    ),
    "French": (
        "Ne touche jamais à la base de production.",
        "N'efface pas les migrations.",
        "Merci de ne pas pousser sur main.",
        "Il ne faut surtout pas supprimer les tests.",
        "Il est interdit de modifier l'API publique.",
        "Évite d'ajouter des dépendances.",
        "Touche pas à la config de prod.",
    ),
    "Spanish": (
        "Nunca reinicies el servidor de pagos sin avisarme.",
        "No borres las migraciones.",
        "Por favor, no subas nada a main.",
        "Prohibido cambiar la API pública.",
        "No se debe tocar la base de producción.",
        "No quiero nuevas dependencias.",
    ),
    "Portuguese": (
        "Nunca reinicie o servidor sem me avisar.",
        "Não apague as migrações.",
        "Por favor, não faça push na main.",
        "É proibido alterar a API pública.",
        "Você não deve mexer no banco de produção.",
        "Evite adicionar dependências novas.",
    ),
    "Italian": (
        "Non toccare mai il database di produzione.",
        "Non cancellare le migrazioni.",
        "Per favore non fare push su main.",
        "È vietato modificare l'API pubblica.",
        "Non devi aggiungere nuove dipendenze.",
        "Evita di riavviare il server.",
    ),
    "Indonesian": (
        "Jangan pernah hapus basis data produksi.",
        "Tolong jangan push ke main.",
        "Dilarang mengubah API publik.",
        "Tidak boleh menambah dependensi baru.",
        "Jangan ubah migrasi tanpa izin saya.",
    ),
}
"""Sentences that forbid, by language."""
ASKED: dict[str, tuple[str, ...]] = {
    "Chinese": (
        "请修复登录页面的错误。",
        "必须先运行测试。",
        "把日志级别改成警告。",
    ),
    "Japanese": (
        "ログインのバグを修正してください。",
        "必ず先にテストを実行すること。",
        "設定ファイルを更新してほしい。",
    ),
    "Korean": (
        "로그인 버그를 고쳐 주세요.",
        "항상 먼저 테스트를 실행해야 합니다.",
        "설정 파일을 업데이트해줘.",
    ),
    "Russian": (
        "Исправь ошибку на странице входа.",
        "Всегда сначала запускай тесты.",
        "Нужно обновить файл настроек.",
    ),
    "German": (
        "Bitte behebe den Fehler auf der Anmeldeseite.",
        "Führe immer zuerst die Tests aus.",
        "Benutze nur die neue Schnittstelle.",
    ),
    "French": (
        "Corrige l'erreur de la page de connexion.",
        "Il faut toujours lancer les tests d'abord.",
        "Utilise uniquement la nouvelle interface.",
    ),
    "Spanish": (
        "Corrige el error de la página de acceso.",
        "Siempre ejecuta primero las pruebas.",
        "Usa solamente la nueva interfaz.",
    ),
    "Portuguese": (
        "Corrija o erro da página de acesso.",
        "Sempre execute os testes primeiro.",
        "Use somente a nova interface.",
    ),
    "Italian": (
        "Correggi l'errore della pagina di accesso.",
        "Esegui sempre prima i test.",
        "Usa soltanto la nuova interfaccia.",
    ),
    "Indonesian": (
        "Tolong perbaiki galat di halaman masuk.",
        "Selalu jalankan pengujian dulu.",
        "Gunakan hanya antarmuka yang baru.",
    ),
}
"""Sentences that ask."""
TOLD: dict[str, tuple[str, ...]] = {
    "Chinese": (
        "构建失败了，日志在下面。",
        "这个分支是昨天创建的。",
        "有没有相关的plan",
        "服务器的区别在于内存。",
    ),
    "Japanese": (
        "ビルドが失敗しました。",
        "サーバーは東京にあります。",
        "昨日のログはここにあります。",
    ),
    "Korean": (
        "빌드가 실패했습니다.",
        "서버는 서울에 있습니다.",
        "어제 로그가 여기 있습니다.",
    ),
    "Russian": (
        "Сборка упала вчера вечером.",
        "Сервер стоит в Москве.",
        "Это не тот файл.",
    ),
    "German": (
        "Das geht leider nicht.",
        "Der Server steht in Berlin.",
        "Gestern ist der Build fehlgeschlagen.",
        "Die Anmeldung funktioniert nicht.",
    ),
    "French": (
        "Le serveur est à Lyon.",
        "La compilation a échoué hier.",
        "Ça ne marche pas.",
    ),
    "Spanish": (
        "El servidor está en Madrid.",
        "La compilación falló ayer.",
        "No funciona la página de acceso.",
    ),
    "Portuguese": (
        "O servidor está em Lisboa.",
        "A compilação falhou ontem.",
        "A página não funciona.",
    ),
    "Italian": (
        "Il server è a Roma.",
        "La compilazione è fallita ieri.",
        "La pagina non funziona.",
    ),
    "Indonesian": (
        "Server berada di Jakarta.",
        "Kompilasi gagal kemarin.",
        "Halaman ini rusak.",
    ),
    "English": (
        "The list is empty and no aliases exist in the de locale.",
        "We built a new page in Paris last week.",
        "It fails on a non empty map.",
        "The pas de deux was no es module on me.",
    ),
}
"""Sentences that state something, with and without a no."""


def test_ten_languages_beside_english_have_wordings() -> None:
    names = {row.name for row in WORDINGS}
    assert names == FORBIDDEN.keys() == ASKED.keys() == TOLD.keys() - {"English"}
    assert len(names) == 10


@pytest.mark.parametrize("language", FORBIDDEN)
def test_a_rule_in_another_language_is_a_rule(language: str) -> None:
    assert [s for s in FORBIDDEN[language] if classify_sentence(s) is not FactKind.PROHIBITION or not forbids(s)] == []
    assert [s for s in FORBIDDEN[language] if not negates(s)] == []
    assert [s for s in ASKED[language] if classify_sentence(s) is not FactKind.INSTRUCTION] == []


@pytest.mark.parametrize("language", TOLD)
def test_a_statement_is_no_rule(language: str) -> None:
    assert [s for s in TOLD[language] if classify_sentence(s) is not None] == []


@pytest.mark.parametrize("language", FORBIDDEN)
def test_rules_in_another_language_survive_a_compaction_like_english_ones(language: str) -> None:
    rules = FORBIDDEN[language]
    said = session(
        user("Fix it."), *(user(rule) for rule in rules), *(tool(long(), command=f"x {n}") for n in range(12))
    )
    found = [fact.text for fact in collect_facts(said).facts if fact.kind in RULE_KINDS]
    assert found == list(rules)
    done = rewrite(said, TextPlan("truncate", ratio=9, keep_recent=1))
    shown = "\n".join(turn.text for turn in done.draft.turns)
    assert [rule for rule in rules if rule not in shown] == []


def test_a_question_is_a_rule_only_if_it_asks_for_something() -> None:
    for idle in (
        "为什么不能推送？",
        "¿Por qué no funciona la página?",
        "Warum geht das nicht?",
        "Почему сборка не работает?",
    ):
        assert classify_sentence(idle) is None
    for asks in (
        "能不能请你先运行测试？",
        "¿Puedes siempre correr las pruebas primero?",
        "Kannst du bitte die Tests reparieren?",
    ):
        assert classify_sentence(asks) is FactKind.INSTRUCTION


LIFTED: dict[str, tuple[tuple[str, str], ...]] = {
    "Chinese": (
        ("请不要推送到 main。", "现在可以推送到 main 了。"),
        ("禁止修改数据库迁移文件。", "从现在起你可以修改数据库迁移文件。"),
    ),
    "Japanese": (("main にプッシュしないでください。", "もう main にプッシュしてもいいです。"),),
    "Korean": (("main에 푸시하지 마세요.", "이제 main에 푸시해도 됩니다."),),
    "Russian": (
        ("Не пуши в main.", "Теперь можно пушить в main."),
        ("Не удаляйте миграции.", "Забудь, что я говорил про миграции."),
    ),
    "German": (
        ("Pushe nicht auf main.", "Du darfst jetzt auf main pushen."),
        ("Die Tests nicht löschen!", "Ok, ab jetzt darfst du die Tests löschen."),
        ("Du darfst die Migrationen nicht ändern.", "Vergiss, was ich über die Migrationen gesagt habe."),
    ),
    "French": (
        ("Ne modifie jamais les migrations.", "Tu peux maintenant modifier les migrations."),
        ("Ne touche jamais à la base de production.", "Oublie ce que j'ai dit sur la base de production."),
    ),
    "Spanish": (("No instales dependencias nuevas.", "Ahora puedes instalar dependencias nuevas."),),
    "Portuguese": (("Não instale dependências novas.", "Agora você pode instalar dependências novas."),),
    "Italian": (("Non modificare le migrazioni.", "Ora puoi modificare le migrazioni."),),
    "Indonesian": (("Jangan hapus migrasi lama.", "Sekarang kamu boleh hapus migrasi lama."),),
}
KEPT = (
    ("Pushe nicht auf main.", "Du darfst jetzt auf staging pushen."),
    ("Pushe nicht auf main.", "Du darfst jetzt nur auf main pushen, wenn alle Tests grün sind."),
    ("Pushe nicht auf main.", "Du kannst auf main pushen."),  # what is possible, not what is allowed again
    ("Pushe nicht auf main.", "Darf ich jetzt auf main pushen?"),
    ("Ne modifie jamais les migrations.", "Tu peux maintenant modifier les tests."),
    ("请不要推送到 main。", "现在不可以推送到 main。"),
    ("请不要推送到 main。", "现在可以推送到 staging 了。"),
    ("Не пуши в main.", "Теперь можно пушить в dev."),
    ("No instales dependencias nuevas.", "Ahora no puedes instalar dependencias nuevas."),
    ("main에 푸시하지 마세요.", "이제 dev에 푸시해도 됩니다."),
)


def rules_after(rule: str, later: str) -> set[str]:
    live = collect_facts(session(user(f"Fix it.\n{rule}"), tool("ok", command="ls"), user(later))).live
    return {fact.text for fact in live if fact.kind in RULE_KINDS}


@pytest.mark.parametrize(("rule", "lift"), [pair for pairs in LIFTED.values() for pair in pairs])
def test_the_user_takes_a_rule_back_in_each_language(rule: str, lift: str) -> None:
    assert rule in rules_after(rule, "ok")
    assert rule not in rules_after(rule, lift)


@pytest.mark.parametrize(("rule", "words"), KEPT)
def test_in_doubt_a_rule_stays_in_each_language(rule: str, words: str) -> None:
    assert rule in rules_after(rule, words)


def test_each_language_has_rules_that_are_taken_back() -> None:
    assert LIFTED.keys() == {row.name for row in WORDINGS}

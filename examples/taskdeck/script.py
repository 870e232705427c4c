"""The taskdeck session without its results: the files found at the start, and what user and agent say and do.

Holds no tool result: session/events.py runs the calls and adds them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any, Literal


@dataclass(frozen=True)
class Step:
    """One message of the user or the agent; an agent's message may carry one tool call."""

    role: Literal["user", "assistant"]
    text: str
    reasoning: str = ""
    tool: str | None = None
    arguments: dict[str, str] = field(default_factory=dict)


def prose(text: str) -> str:
    """Undo the line breaks of this file: a break stays only before a list item or an empty line."""
    return re.sub(r"(?<!\n)\n(?!\n|- )", " ", dedent(text).strip())


def user(text: str) -> Step:
    return Step("user", prose(text))


def say(text: str, think: str = "") -> Step:
    return Step("assistant", prose(text), prose(think))


def run(text: str, command: str, think: str = "") -> Step:
    return Step("assistant", prose(text), prose(think), "run_command", {"command": command.strip("\n")})


def read(text: str, path: str, think: str = "") -> Step:
    return Step("assistant", prose(text), prose(think), "read_file", {"path": path})


def write(text: str, path: str, content: str, think: str = "") -> Step:
    arguments = {"path": path, "content": content.lstrip("\n")}
    return Step("assistant", prose(text), prose(think), "write_file", arguments)


def tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {key: {"type": "string", "description": text} for key, text in parameters.items()},
        "required": list(parameters),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = [
    tool("read_file", "Return the text of a file.", path="relative to the project root"),
    tool(
        "write_file",
        "Create or replace a file.",
        path="relative to the project root",
        content="the whole new text of the file",
    ),
    tool("run_command", "Run a bash command in the project root.", command="the command line"),
]

SYSTEM = prose("""
    You are a coding agent at work in /workspace/taskdeck, a small Node.js service. Your tools read a
    file, write a file and run a shell command in the project root. Follow the rules of the repository and
    those that the user gives; they hold until the user takes them back. Work in small steps, and run what
    you write before you call it done. Say in a sentence or two what you are about to do and why. When a
    result surprises you, find the cause before you change code, and report failures as they are. Ask
    before you do anything that cannot be undone.
""")

SEED = {
    "README.md": """\
# taskdeck

Task management API of the field-service team: users log in, keep a deck of tasks, get a weekly
report by mail.

- One Node process (Express), one SQLite file `data/deck.sqlite` (`DECK_FILE` overrides).
- SQLite runs as WebAssembly through sql.js, in process.
- Listens on 127.0.0.1, port 4817 (`PORT` overrides); the proxy in front speaks TLS.
- Task notes are Markdown; the report mail is HTML.

Start with `npm start`, test with `npm test`.
""",
    "CONTRIBUTING.md": """\
# House rules

1. `migrations/` belongs to the old desktop client, which still reads it at start. Never touch migrations/.
2. Do not add dependencies without asking. Owner of the list: Ottilie.
3. Every error leaves the API as `{"error":{"code","message"}}`. Clients parse it; keep the shape.
4. Tests run on node:test with node:assert/strict. No Jest, no Mocha, no supertest: `fetch` is enough.
5. Markdown is converted by our own regular expressions. No markdown library.
6. SQL values are bound, never pasted into the statement.
7. Never log e-mail addresses or tokens.
8. ES modules, 2 spaces, single quotes, lines up to 100 columns.
""",
    "package.json": """\
{
  "name": "taskdeck",
  "version": "0.3.0",
  "private": true,
  "type": "module",
  "scripts": {
    "start": "node src/server.js",
    "test": "jest --runInBand"
  },
  "engines": {
    "node": ">=20.6"
  },
  "dependencies": {
    "bcryptjs": "2.4.3",
    "better-sqlite3": "9.4.3",
    "express": "4.19.2",
    "jsonwebtoken": "9.0.2"
  }
}
""",
    "migrations/0007_depots.sql": """\
-- desktop client 5.x, do not renumber
CREATE TABLE depots (depot_no INTEGER PRIMARY KEY, town TEXT NOT NULL);
""",
}

STEPS = [
    user("""
        You are picking up taskdeck, the task management API of our field-service team. There are eight
        items on my list, and I will hand them to you one or two at a time. Before you write any code:
        read README.md, CONTRIBUTING.md and package.json, look into the folders, and tell me what does not
        fit together.
    """),
    read("I start with the README to see what the service is meant to be.", "README.md"),
    read("Next the house rules, since they will bind everything that I write.", "CONTRIBUTING.md"),
    read("Now the manifest, to compare it with what the two texts promise.", "package.json"),
    run(
        "Last the folders and the Node version, so that I know what exists before the first item.",
        "node --version; ls -A . migrations; cat migrations/*.sql; cksum migrations/*.sql",
    ),
    say(
        """
        There is no source yet, and package.json contradicts the texts in two places:

        - It lists better-sqlite3 9.4.3, while the README says that SQLite runs as WebAssembly through
        sql.js, which is not listed.
        - Its test script calls jest, which is neither installed nor allowed: rule 4 wants node:test.

        I would remove better-sqlite3, add sql.js and repair the test script. Adding sql.js is a new
        dependency, so by rule 2 I ask first. migrations/ I leave alone.
        """,
        think="""
            better-sqlite3 in the manifest would mislead: code written against it would be synchronous and
            file based, and sql.js keeps the database in memory and has to be exported. The README and the
            manifest cannot both be right. Rule 2 forbids me to add sql.js on my own, even though the
            README names it.
        """,
    ),
    user("""
        Right on both counts. better-sqlite3 is left over from Marit's spike in March: our runtime image
        has no C++ toolchain, so native addons cannot be built there. Remove it; sql.js is approved, pin
        1.10.3.

        Item 1, the database schema, in src/db.js with sql.js. Three tables: users, tasks, reports. Due
        dates are whole days since 1970-01-01 in a column `due_epoch_day`, because the tablets of the
        crews disagree about time zones. Status is pending, in_progress or done, and the database itself
        must refuse anything else. I want one index for "my tasks by due day"; call it
        `tasks_by_owner_due`.
    """),
    run(
        """
        I change the manifest by command rather than by hand. `--ignore-scripts` makes sure that no
        package compiles anything here, as it could not in the runtime image either.
        """,
        """
npm pkg delete dependencies.better-sqlite3 && npm pkg set scripts.test='node --test'
npm install --silent --save-exact --ignore-scripts sql.js@1.10.3
npm pkg get scripts.test dependencies && ls node_modules | wc -l
""",
    ),
    write(
        """
        Now src/db.js. sql.js holds the whole database in memory, so `save()` exports it and writes to a
        `.part` file which is then renamed: a crash while writing leaves the old file whole.
        """,
        "src/db.js",
        r"""
import { initSqlJs } from 'sql.js';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

const SCHEMA = `
CREATE TABLE IF NOT EXISTS users (
  id INTEGER PRIMARY KEY,
  email TEXT NOT NULL UNIQUE COLLATE NOCASE,
  pw_digest TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tasks (
  id INTEGER PRIMARY KEY,
  owner_id INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  title TEXT NOT NULL,
  notes_md TEXT NOT NULL DEFAULT '',
  status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'in_progress', 'done')),
  due_epoch_day INTEGER,
  finished_epoch_day INTEGER
);
CREATE INDEX IF NOT EXISTS tasks_by_owner_due ON tasks (owner_id, due_epoch_day);
CREATE TABLE IF NOT EXISTS reports (
  id INTEGER PRIMARY KEY,
  owner_id INTEGER NOT NULL REFERENCES users(id) ON DELETE CASCADE,
  iso_week TEXT NOT NULL,
  body_html TEXT NOT NULL,
  UNIQUE (owner_id, iso_week)
);`;

export async function openDb(file) {
  const SQL = await initSqlJs();
  const onDisk = file !== ':memory:';
  const db = new SQL.Database(onDisk && existsSync(file) ? readFileSync(file) : null);
  db.exec('PRAGMA foreign_keys = ON');
  db.exec(SCHEMA);

  function save() {
    if (!onDisk) return;
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(`${file}.part`, db.export());
    renameSync(`${file}.part`, file);
  }

  function all(sql, params = []) {
    const statement = db.prepare(sql, params);
    const rows = [];
    while (statement.step()) rows.push(statement.getAsObject());
    statement.free();
    return rows;
  }

  const get = (sql, params) => all(sql, params)[0];

  function run(sql, params = []) {
    db.run(sql, params);
    const changes = db.getRowsModified();
    save();
    return { changes, id: get('SELECT last_insert_rowid() AS id').id };
  }

  return { all, get, run, close: () => db.close() };
}
""",
        think="""
            Uniqueness of the e-mail should not depend on case, so COLLATE NOCASE belongs on the column. A
            CHECK on status gives the refusal inside the database that was asked for. Writing the file in
            place could leave half a database after a power cut, hence write and rename.
        """,
    ),
    run(
        "A quick look at the schema in memory, with one status that must be refused.",
        """
mkdir -p .scratch && cat > .scratch/schema.mjs <<'EOF'
import { openDb } from '../src/db.js';
const db = await openDb(':memory:');
const made = db.all("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'");
console.log(made.map((row) => `${row.type} ${row.name}`));
db.run("INSERT INTO users (email, pw_digest) VALUES ('crew@deck.example', 'x')");
try {
  db.run("INSERT INTO tasks (owner_id, title, status) VALUES (1, 'Valve 12', 'paused')");
} catch (error) {
  console.log(error.message);
}
console.log(db.get('PRAGMA foreign_keys'), db.get('SELECT count(*) AS tasks FROM tasks'));
EOF
set -o pipefail; node .scratch/schema.mjs 2>&1 | grep -vE '^ +at |^$'
""",
    ),
    run(
        """
        The import is wrong: sql.js is a CommonJS module whose only export is the function itself, so ES
        modules get it as the default export. I change the import line and run the same check.
        """,
        'sed -i "s/^import { initSqlJs }/import initSqlJs/" src/db.js && node .scratch/schema.mjs',
    ),
    say("""
        Item 1 stands. All three tables and the index are there, and a status of `paused` is refused by
        the CHECK constraint, so nothing outside pending, in_progress and done can be stored. E-mail
        addresses are unique without regard to case.

        One question: `save()` exports the whole database at every write. I could collect writes and save
        at most every 250 ms. Do you want that?
    """),
    user("""
        No. No debounce: crews switch the tablet off the moment they see the answer, so the row must be on
        disk before the response goes out. We have about 3,000 tasks a year, the export is cheap enough.

        Item 2: the Markdown converter, src/md.js, regular expressions only. It needs headings, bold,
        italics, inline code, fenced code, bullet lists and links. `#` has to become `<h2>`, since the
        mail template owns the h1. Links may only go to http and https; of any other link keep the label.
        Test it on its own.
    """),
    write(
        """
        Write-through it stays. For the converter I escape first and mark up afterwards, so that no HTML
        from a note can reach the mail; code spans and links are taken out before emphasis is looked for.
        """,
        "src/md.js",
        r"""
const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escapeHtml = (text) => text.replace(/[&<>"]/g, (char) => ESCAPES[char]);

function inline(text) {
  const kept = [];
  const keep = (html) => `\u0001${kept.push(html) - 1}\u0001`;
  return escapeHtml(text)
    .replace(/`([^`]+)`/g, (_, code) => keep(`<code>${code}</code>`))
    .replace(/\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g, (_, label, url) =>
      `${keep(`<a href="${url}">`)}${label}${keep('</a>')}`)
    .replace(/\[([^\]]+)\]\([^)]*\)/g, '$1')
    .replace(/\*\*(.+?)\*\*/g, '<strong>$1</strong>')
    .replace(/(\*|_)(.+?)\1/g, '<em>$2</em>')
    .replace(/\u0001(\d+)\u0001/g, (_, index) => kept[index]);
}

function block(text, fences) {
  const fence = /^\u0002(\d+)$/.exec(text);
  if (fence) return `<pre><code>${escapeHtml(fences[fence[1]])}</code></pre>`;
  const heading = /^(#{1,3}) (.*)$/.exec(text);
  if (heading) {
    const level = heading[1].length + 1;
    return `<h${level}>${inline(heading[2])}</h${level}>`;
  }
  if (/^- /.test(text)) {
    const items = text.split(/^- /m).slice(1).map((item) => `<li>${inline(item.trim())}</li>`);
    return `<ul>${items.join('')}</ul>`;
  }
  return `<p>${inline(text.replace(/\n/g, ' '))}</p>`;
}

export function toHtml(markdown) {
  const fences = [];
  return markdown
    .replace(/\r\n?/g, '\n')
    .replace(/^```\w*\n([\s\S]*?)^```$/gm, (_, code) => `\n\u0002${fences.push(code) - 1}\n`)
    .replace(/^(#{1,3} .*)$/gm, '\n$1\n')
    .split(/\n{2,}/)
    .map((text) => text.trim())
    .filter(Boolean)
    .map((text) => block(text, fences))
    .join('\n');
}
""",
    ),
    write(
        """
        Its tests, one per promise. I put our own column and status names into one of them, as notes will
        mention them.
        """,
        "test/md.test.js",
        r"""
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toHtml } from '../src/md.js';

const CASES = {
  'a heading starts at h2': ['# Pump 4', '<h2>Pump 4</h2>'],
  'bold and italics': ['**now** or *later*', '<p><strong>now</strong> or <em>later</em></p>'],
  'html is escaped': ['<img src=x onerror=alert(1)>', '<p>&lt;img src=x onerror=alert(1)&gt;</p>'],
  'an https link': ['[map](https://m.example/4)', '<p><a href="https://m.example/4">map</a></p>'],
  'a javascript link keeps its label only': ['[map](javascript:steal)', '<p>map</p>'],
  'stars in code stay': ['`a * b * c`', '<p><code>a * b * c</code></p>'],
  'names with underscores stay': [
    'in_progress and due_epoch_day', '<p>in_progress and due_epoch_day</p>'],
  'a list under a heading': [
    '## Parts\n- seal\n- bolt', '<h3>Parts</h3>\n<ul><li>seal</li><li>bolt</li></ul>'],
  'a fence is left alone': [
    '```sh\n# no heading\n**x**\n```', '<pre><code># no heading\n**x**\n</code></pre>'],
};

for (const [name, [markdown, html]] of Object.entries(CASES)) {
  test(name, () => assert.equal(toHtml(markdown), html));
}
""",
    ),
    run(
        "I run them with the spec reporter and leave the stack lines out.",
        """
set -o pipefail
node --test --test-reporter=spec test/md.test.js 2>&1 | grep -vE '^ +at |^$|duration_ms' | head -30
""",
    ),
    run(
        """
        Eight of nine pass. The ninth is a real fault: `_` as emphasis eats names with underscores, so
        every `in_progress` in a note would be torn apart. I drop underscore emphasis altogether and keep
        only the star, because our own vocabulary is full of underscores.
        """,
        r"""
sed -i 's#(\\\*|_)(.+?)\\1/g, \(.<em>\)$2#\\*(.+?)\\*/g, \1$1#' src/md.js && grep -n '<em>' src/md.js
node --test --test-reporter=spec test/md.test.js | grep -E '^. (tests|pass|fail) [0-9]'
""",
        think="""
            A word-boundary rule for the underscore would also work, but it is one more rule to explain,
            and CommonMark's own rule is subtle. Italics with a star were asked for; italics with an
            underscore were not.
        """,
    ),
    say("""
        Item 2 is done, nine tests pass. Two decisions for the record: underscores never mean emphasis,
        and a link with another scheme than http or https loses its target but keeps its label.
    """),
    user("""
        Good. Please rename src/md.js to src/markdown.js, test included: "md" is what everybody here calls
        the master data service.

        Item 3: user authentication. POST /auth/register and POST /auth/login, passwords with bcryptjs
        (not bcrypt, it is a native addon), a JWT that lives 9 hours: one shift plus the handover. 201 on
        register, 409 if the address is taken, 401 for a wrong password. The secret comes from JWT_SECRET,
        with the fallback 'dev-secret' so that a laptop works out of the box. Pick the salt rounds by
        measuring: a login may cost us up to 500 ms, no more.
    """),
    run(
        "First the rename, with the import in the test and a run to prove it.",
        """
mv src/md.js src/markdown.js && mv test/md.test.js test/markdown.test.js
sed -i 's#/md.js#/markdown.js#' test/markdown.test.js && grep -rn 'md\\.js' src test
node --test --test-reporter=dot && ls src test
""",
    ),
    run(
        """
        Now I measure bcryptjs. Every round doubles the work, so I want the largest one that keeps well
        under 500 ms.
        """,
        """
cat > .scratch/rounds.mjs <<'EOF'
import bcrypt from 'bcryptjs';
bcrypt.hashSync('warm up', 8);
for (const rounds of [9, 10, 11, 12, 13]) {
  const start = performance.now();
  bcrypt.hashSync('correct horse battery', rounds);
  console.log(rounds, performance.now() - start < 500 ? 'under 500 ms' : 'over 500 ms');
}
EOF
node .scratch/rounds.mjs
""",
    ),
    write(
        """
        12 rounds would pass here, but two logins at the same time share one core of the server, so I take
        11: it leaves room of more than a factor of two. First the error type, because rule 3 wants one
        shape for every error, and one place that makes it.
        """,
        "src/errors.js",
        r"""
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export const wrap = (handler) => (req, res, next) => handler(req, res, next).catch(next);

export function notFound(req, res, next) {
  next(new ApiError(404, 'no_route', `No route ${req.method} ${req.path}`));
}

// Express knows an error handler by its four parameters.
export function errorHandler(error, req, res, _next) {
  if (error instanceof ApiError) {
    res.status(error.status).json({ error: { code: error.code, message: error.message } });
    return;
  }
  console.error(error);
  res.status(500).json({ error: { code: 'internal', message: 'Something broke on our side' } });
}
""",
        think="""
            The measurement says 12 is inside the limit on this machine, but the limit is about what a
            user feels on the server. bcryptjs is pure JavaScript and runs on the main thread in slices,
            so concurrent logins add up. 11 is the careful choice, and existing digests carry their own
            rounds, so it can be raised later.
        """,
    ),
    write(
        """
        Then the two routes. An unknown address and a wrong password get the same answer, so that nobody
        can find out who has an account.
        """,
        "src/auth.js",
        r"""
import bcrypt from 'bcryptjs';
import { Router } from 'express';
import { sign } from 'jsonwebtoken';
import { ApiError, wrap } from './errors.js';

const SALT_ROUNDS = 11;
const TOKEN_LIFE = '9h';

export function jwtSecret() {
  return process.env.JWT_SECRET || 'dev-secret';
}

export function authRouter(db) {
  const router = Router();

  router.post('/register', wrap(async (req, res) => {
    const { email, password } = req.body;
    if (db.get('SELECT id FROM users WHERE email = ?', [email])) {
      throw new ApiError(409, 'email_taken', 'This address already has an account');
    }
    const digest = await bcrypt.hash(password, SALT_ROUNDS);
    const { id } = db.run('INSERT INTO users (email, pw_digest) VALUES (?, ?)', [email, digest]);
    res.status(201).json({ id, email });
  }));

  router.post('/login', wrap(async (req, res) => {
    const user = db.get('SELECT id, pw_digest FROM users WHERE email = ?', [req.body.email]);
    if (!user || !(await bcrypt.compare(req.body.password, user.pw_digest))) {
      throw new ApiError(401, 'bad_login', 'Address or password is wrong');
    }
    res.json({ token: sign({ uid: user.id }, jwtSecret(), { expiresIn: TOKEN_LIFE }) });
  }));

  return router;
}
""",
    ),
    write(
        """
        The application itself is a function of the database, so that tests can build one around a file of
        their own.
        """,
        "src/app.js",
        r"""
import express from 'express';
import { authRouter } from './auth.js';
import { errorHandler, notFound } from './errors.js';

export function createApp(db) {
  const app = express();
  app.disable('x-powered-by');
  app.use(express.json({ limit: '64kb' }));
  app.use('/auth', authRouter(db));
  app.use(notFound);
  app.use(errorHandler);
  return app;
}
""",
    ),
    write(
        "And the entry point, which alone knows the port and the file.",
        "src/server.js",
        r"""
import { createApp } from './app.js';
import { openDb } from './db.js';

const db = await openDb(process.env.DECK_FILE || 'data/deck.sqlite');
const port = Number(process.env.PORT) || 4817;
if (!process.env.JWT_SECRET) console.warn('JWT_SECRET is not set: using the fallback for laptops');
createApp(db).listen(port, '127.0.0.1', () => console.log(`taskdeck listens on ${port}`));
""",
    ),
    run(
        """
        For trying things by hand I keep a small shell file in .scratch: it starts the server on a scratch
        file and gives me a short `call` that prints status and body.
        """,
        """
cat > .scratch/up.sh <<'EOF'
export DECK_FILE=.scratch/try.sqlite
: > .scratch/server.log
node src/server.js >> .scratch/server.log 2>&1 & SERVER=$!
trap '{ kill $SERVER; wait $SERVER; } 2> /dev/null' EXIT
for n in 1 2 3 4 5 6 7 8 9 10; do grep -qE 'listens|Error' .scratch/server.log && break; sleep 0.3; done
call() { # METHOD PATH [BODY] [curl options]
  local method=$1 path=$2 body=$3; shift 3
  curl -sS -X "$method" "http://127.0.0.1:4817$path" -w ' -> %{http_code}\\n' \\
    -H 'content-type: application/json' ${body:+-d "$body"} "$@"
}
EOF
. .scratch/up.sh
call POST /auth/register '{"email":"lena@deck.example","password":"nine o clock tea"}'
grep -vE '^ +at |^$' .scratch/server.log | head -4
""",
    ),
    run(
        """
        The same kind of mistake again, this time in auth.js: jsonwebtoken is CommonJS, so `sign` is no
        named export. I take the default export there as well, and run through all answers that item 3
        asks for.
        """,
        """
sed -i "s/^import { sign } from/import jwt from/; s/token: sign(/token: jwt.sign(/" src/auth.js
. .scratch/up.sh
call POST /auth/register '{"email":"lena@deck.example","password":"nine o clock tea"}'
call POST /auth/register '{"email":"LENA@deck.example","password":"another long one"}'
call POST /auth/login '{"email":"lena@deck.example","password":"wrong password"}'
call POST /auth/login '{"email":"lena@deck.example","password":"nine o clock tea"}' \\
  | sed -E 's/"token":"[^"]+"/"token":"..."/'
cat .scratch/server.log
""",
    ),
    say("""
        Item 3 is done: 201, 409 (also for the same address in capitals), 401, and a token on a good
        login. The digest uses 11 rounds, the token lives 9 hours, and the server warns at start when it
        runs on the fallback secret. I did not look at the other fields of the answers yet.
    """),
    user("""
        Look again: register answered `"id":0`. The first row of a table cannot have id 0. Find out why
        before you go on, I do not want a workaround.
    """),
    run(
        """
        You are right, I missed that. My schema check ran in memory and the server runs on a file, so I
        compare exactly these two, and print the foreign key setting beside the id.
        """,
        """
cat > .scratch/lastid.mjs <<'EOF'
import { openDb } from '../src/db.js';
for (const file of [':memory:', '.scratch/lastid.sqlite']) {
  const db = await openDb(file);
  const { id } = db.run("INSERT INTO users (email, pw_digest) VALUES ('crew@deck.example', 'x')");
  console.log(file.padEnd(22), { id }, db.get('PRAGMA foreign_keys'));
}
EOF
node .scratch/lastid.mjs; rm -f .scratch/lastid.sqlite
""",
        think="""
            In memory save() returns at once; on a file it exports. last_insert_rowid() belongs to a
            connection, so an id of 0 suggests that the connection is a new one after the export. If so,
            every PRAGMA is lost as well, and that would be the worse fault.
        """,
    ),
    run(
        """
        Only the file shows it, and foreign_keys is 0 there too, which is worse: after a save, no
        reference is checked any more. I read what `export()` does in the unminified build of sql.js.
        """,
        "grep -n -A12 'Database.prototype\\[\"export\"\\]' node_modules/sql.js/dist/sql-wasm-debug.js",
    ),
    run(
        """
        That is the cause: `export()` closes the connection and opens it anew, so last_insert_rowid()
        starts at 0 and the PRAGMA is forgotten. The cure is to read the id before `save()`, and to switch
        the keys on again after each export, in `save()` itself, where the connection is lost.
        """,
        """
KEYS="    db.exec('PRAGMA foreign_keys = ON'); // export() reopens the connection"
sed -i "/writeFileSync(\\`/a\\\\$KEYS" src/db.js
sed -i "/const changes/a\\\\    const { id } = get('SELECT last_insert_rowid() AS id');" src/db.js
sed -i "s/return { changes, id: .* };/return { changes, id };/" src/db.js
sed -n '37,43p;54,60p' src/db.js; node .scratch/lastid.mjs
""",
    ),
    write(
        """
        Both are right now. A regression test holds it; it works on a file, since `:memory:` would never
        show this fault.
        """,
        "test/db.test.js",
        r"""
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { openDb } from '../src/db.js';

const dir = mkdtempSync(join(tmpdir(), 'deck-'));
const file = join(dir, 'deck.sqlite');
after(() => rmSync(dir, { recursive: true }));

const ADD_USER = "INSERT INTO users (email, pw_digest) VALUES (?, 'x')";

test('run() returns the id of the new row although it saves', async () => {
  const db = await openDb(file);
  assert.equal(db.run(ADD_USER, ['a@deck.example']).id, 1);
  assert.equal(db.run(ADD_USER, ['b@deck.example']).id, 2);
});

test('foreign keys are still checked after a save', async () => {
  const db = await openDb(file);
  db.run(ADD_USER, ['c@deck.example']);
  assert.throws(
    () => db.run("INSERT INTO tasks (owner_id, title) VALUES (99, 'Valve')"), /FOREIGN KEY/);
});

test('a reopened file holds the rows, and no .part file is left', async () => {
  const db = await openDb(file);
  assert.equal(db.get('SELECT count(*) AS n FROM users').n, 3);
  assert.deepEqual(readdirSync(dir), ['deck.sqlite']);
});
""",
    ),
    run(
        "I run it together with the converter's tests.",
        "npm test --silent -- --test-reporter=spec | grep -E '^(✖|. (tests|pass|fail) [0-9])'",
    ),
    say("""
        The cause is fixed and 12 tests pass. Lesson for the integration tests: they must run on a file
        and not on `:memory:`.
    """),
    user("""
        That is what I wanted; and keep that comment. A crew must never learn anything about the tasks of
        another crew, by the way.

        Item 4: the task endpoints under /tasks: list, read, create, change (PATCH), delete. Create
        answers 201 with a Location header, delete 204. The list pages: 15 rows by default, 60 at most,
        sorted by due day with undated tasks last. A task that is in progress must not be deleted: 409.
        Item 7 brings the real auth, so until then take the user from a header x-deck-user.
    """),
    write(
        """
        I write the routes around one helper, `mine()`, which only finds tasks of the caller. A task of
        another crew is therefore a 404 and not a 403: a 403 would tell that the id exists.
        """,
        "src/tasks.js",
        r"""
import { Router } from 'express';
import { ApiError } from './errors.js';

export const STATUSES = ['pending', 'in_progress', 'done'];
const PAGE_DEFAULT = 15;
const PAGE_MAX = 60;
const FIELDS = ['title', 'notes_md', 'status', 'due_epoch_day'];
const today = () => Math.floor(Date.now() / 86_400_000);

export function tasksRouter(db) {
  const router = Router();

  function mine(req) {
    const task = db.get(
      'SELECT * FROM tasks WHERE id = ? AND owner_id = ?', [req.params.id, req.userId]);
    if (!task) throw new ApiError(404, 'unknown_task', 'No such task on your deck');
    return task;
  }

  router.get('/', (req, res) => {
    const limit = Math.min(Number(req.query.limit) || PAGE_DEFAULT, PAGE_MAX);
    const offset = Number(req.query.offset) || 0;
    const items = db.all(
      `SELECT * FROM tasks WHERE owner_id = ?
       ORDER BY due_epoch_day IS NULL, due_epoch_day, id LIMIT ? OFFSET ?`,
      [req.userId, limit, offset]);
    res.json({ items, limit, offset });
  });

  router.get('/:id', (req, res) => res.json(mine(req)));

  router.post('/', (req, res) => {
    const { title, notes_md = '', status = 'pending', due_epoch_day = null } = req.body;
    const { id } = db.run(
      'INSERT INTO tasks (owner_id, title, notes_md, status, due_epoch_day) VALUES (?, ?, ?, ?, ?)',
      [req.userId, title, notes_md, status, due_epoch_day]);
    req.params.id = id;
    res.status(201).location(`/tasks/${id}`).json(mine(req));
  });

  router.patch('/:id', (req, res) => {
    const old = mine(req);
    const task = { ...old };
    for (const key of FIELDS) if (key in req.body) task[key] = req.body[key];
    if (task.status !== old.status) {
      task.finished_epoch_day = task.status === 'done' ? today() : null;
    }
    db.run(
      `UPDATE tasks SET title = ?, notes_md = ?, status = ?, due_epoch_day = ?,
       finished_epoch_day = ? WHERE id = ?`,
      [...FIELDS.map((key) => task[key]), task.finished_epoch_day, task.id]);
    res.json(mine(req));
  });

  router.delete('/:id', (req, res) => {
    const task = mine(req);
    if (task.status === 'in_progress') {
      throw new ApiError(409, 'task_busy', 'A task in progress cannot be deleted');
    }
    db.run('DELETE FROM tasks WHERE id = ?', [task.id]);
    res.status(204).end();
  });

  return router;
}
""",
    ),
    run(
        """
        I mount it with the stand-in for the user marked as such, and go once through create, list, change
        and delete.
        """,
        """
sed -i "/import { errorHandler/a import { tasksRouter } from './tasks.js';" src/app.js
sed -i "/app.use('\\/auth'/a\\\\  app.use('/tasks', standInUser, tasksRouter(db));" src/app.js
cat >> src/app.js <<'EOF'

// Until item 7: the user comes from a header.
function standInUser(req, res, next) {
  req.userId = Number(req.get('x-deck-user'));
  next();
}
EOF
. .scratch/up.sh
me='x-deck-user: 1'; other='x-deck-user: 2'
call POST /tasks '{"title":"Replace seal of pump 4","due_epoch_day":19850}' -H "$me"
call GET /tasks/1 '' -H "$me"; call GET /tasks/1 '' -H "$other"
call PATCH /tasks/1 '{"status":"in_progress"}' -H "$me" -o /dev/null
call DELETE /tasks/1 '' -H "$me"
call PATCH /tasks/1 '{"status":"done"}' -H "$me" | sed -E 's/_day":2[0-9]{4}/_day":TODAY/'
call DELETE /tasks/1 '' -H "$me"
""",
    ),
    run(
        """
        The good paths work: 201, 200, 404 for the other crew, 409, 204. Now the bad ones: a status that
        does not exist, and a task without a title.
        """,
        """
. .scratch/up.sh
call POST /tasks '{"title":"Grease gate 2","status":"paused"}' -H 'x-deck-user: 1'
call POST /tasks '{}' -H 'x-deck-user: 1'
grep -vE '^ +at |^$|^[{}]' .scratch/server.log | cut -c1-110
""",
    ),
    say(
        """
        Item 4 works, with a gap that item 6 has to close: bad input is refused, but as a 500. `paused`
        runs into the CHECK constraint, and a missing title makes sql.js throw a plain string ("tried to
        bind a value of an unknown type"). Nothing wrong is stored in either case. I leave the routes as
        they are and put the checks in front of them in item 6.
        """,
        think="""
            I could catch both errors in the routes, but the item list has a validation middleware of its
            own. Catching database errors and turning them into client errors would hide real faults
            later.
        """,
    ),
    user("""
        Agreed, leave it to item 6. Item 5, the weekly report: POST /reports/2024-W19 builds the report of
        the caller for that ISO week and stores it (201), GET returns the HTML. Three sections: Finished,
        Slipped (due in or before that week and not done), Coming up (due in the week after). Write it as
        Markdown and send it through the converter of item 2. Building it again replaces the old one. An
        empty section says "Nothing here."
    """),
    write(
        """
        I keep dates as day numbers throughout, so a week is just a Monday and six days more. Titles come
        from users and go through the converter, which escapes them.
        """,
        "src/report.js",
        r"""
import { ApiError } from './errors.js';
import { toHtml } from './markdown.js';

const DAY_MS = 86_400_000;
const isoDate = (day) => new Date(day * DAY_MS).toISOString().slice(0, 10);

export function mondayOf(isoWeek) {
  const match = /^(\d{4})-W(\d{2})$/.exec(isoWeek);
  if (!match) throw new ApiError(422, 'bad_week', 'A week is written like 2024-W19');
  const [year, week] = match.slice(1).map(Number);
  return Date.UTC(year, 0, 1) / DAY_MS + (week - 1) * 7;
}

function section(title, tasks) {
  const due = (day) => (day === null ? '' : `, due ${isoDate(day)}`);
  const lines = tasks.map((task) => `- **${task.title}**${due(task.due_epoch_day)}`);
  return `## ${title} (${tasks.length})\n${lines.join('\n') || 'Nothing here.'}`;
}

export function reportMarkdown(db, ownerId, isoWeek) {
  const monday = mondayOf(isoWeek);
  const tasks = (condition, ...days) => db.all(
    `SELECT title, due_epoch_day FROM tasks WHERE owner_id = ? AND ${condition}
     ORDER BY due_epoch_day, id`, [ownerId, ...days]);
  return [
    `# Week ${isoWeek}, from ${isoDate(monday)}`,
    section('Finished', tasks('finished_epoch_day BETWEEN ? AND ?', monday, monday + 6)),
    section('Slipped', tasks("status <> 'done' AND due_epoch_day <= ?", monday + 6)),
    section('Coming up', tasks(
      "status <> 'done' AND due_epoch_day BETWEEN ? AND ?", monday + 7, monday + 13)),
  ].join('\n\n');
}

export function buildReport(db, ownerId, isoWeek) {
  const html = toHtml(reportMarkdown(db, ownerId, isoWeek));
  db.run(
    `INSERT INTO reports (owner_id, iso_week, body_html) VALUES (?, ?, ?)
     ON CONFLICT (owner_id, iso_week) DO UPDATE SET body_html = excluded.body_html`,
    [ownerId, isoWeek, html]);
  return html;
}
""",
    ),
    run(
        """
        ISO weeks are easy to get wrong, so I check the Monday against four weeks that I know from a
        calendar, among them a week 53.
        """,
        """
cat > .scratch/weeks.mjs <<'EOF'
import { mondayOf } from '../src/report.js';
const KNOWN = {
  '2024-W19': '2024-05-06', '2021-W01': '2021-01-04', '2020-W53': '2020-12-28', '2026-W01': '2025-12-29',
};
for (const [week, monday] of Object.entries(KNOWN)) {
  const got = new Date(mondayOf(week) * 86_400_000).toISOString().slice(0, 10);
  console.log(week, 'expected', monday, 'got', got, got === monday ? 'ok' : 'WRONG');
}
EOF
node .scratch/weeks.mjs
""",
    ),
    run(
        """
        Only 2024 is right, and only because that year began on a Monday. Week 1 is the week that holds
        January 4th, so I count from the Monday of that week; day number 0 was a Thursday, hence the 3.
        """,
        """
cat > .scratch/monday.txt <<'EOF'
  const fourth = Date.UTC(year, 0, 4) / DAY_MS; // always in week 1
  return fourth - ((fourth + 3) % 7) + (week - 1) * 7;
EOF
sed -i -e '/return Date.UTC(year, 0, 1)/{r .scratch/monday.txt' -e 'd}' src/report.js
node .scratch/weeks.mjs
""",
        think="""
            Epoch day 0 is Thursday 1970-01-01. With Monday as 0, Thursday is 3, so the weekday of day d
            is (d + 3) mod 7.
        """,
    ),
    write(
        "All four are right. Now the routes for it.",
        "src/reports.js",
        r"""
import { Router } from 'express';
import { ApiError } from './errors.js';
import { buildReport } from './report.js';

export function reportsRouter(db) {
  const router = Router();

  router.post('/:week', (req, res) => {
    const html = buildReport(db, req.userId, req.params.week);
    res.status(201).json({ iso_week: req.params.week, html });
  });

  router.get('/:week', (req, res) => {
    const report = db.get(
      'SELECT body_html FROM reports WHERE owner_id = ? AND iso_week = ?',
      [req.userId, req.params.week]);
    if (!report) throw new ApiError(404, 'no_report', 'Build the report of this week first');
    res.type('html').send(report.body_html);
  });

  return router;
}
""",
    ),
    run(
        """
        I mount it and build a report with one task that slipped and one that comes up. Day 19850 is
        2024-05-07, in week 19, and 19856 is the Monday after.
        """,
        """
sed -i "/import { tasksRouter/i import { reportsRouter } from './reports.js';" src/app.js
sed -i "/app.use('\\/tasks'/a\\\\  app.use('/reports', standInUser, reportsRouter(db));" src/app.js
. .scratch/up.sh
me='x-deck-user: 1'
call POST /tasks '{"title":"Seal & bolts, pump 4","due_epoch_day":19850}' -H "$me" -o /dev/null
call POST /tasks '{"title":"Check due_epoch_day import","due_epoch_day":19856}' -H "$me" -o /dev/null
call GET /reports/2024-W19 '' -H "$me"
call POST /reports/2024-W19 '{}' -H "$me" -o /dev/null
call POST /reports/2024-W19 '{}' -H "$me" -o /dev/null
call GET /reports/2024-W19 '' -H "$me"
call POST /reports/week19 '{}' -H "$me"
""",
    ),
    say("""
        Item 5 is done. Building twice keeps one row per user and week, `&` in a title arrives escaped,
        and a week that is not written like 2024-W19 is a 422.
    """),
    user("""
        Works for me. Two things before we go on. report.js and reports.js differ in one letter, that will
        bite somebody: call the builder src/weekly.js. And Hamid, who writes the tablet app, sent a
        cut-off body and got this back: 500, code `internal`. A broken body is not our fault; that must be
        a 400 in the usual shape.
    """),
    run(
        "First the rename, then I reproduce Hamid's request before I touch the error handler.",
        """
mv src/report.js src/weekly.js && sed -i 's#/report.js#/weekly.js#' src/*.js .scratch/weeks.mjs
node .scratch/weeks.mjs | grep -c ok
. .scratch/up.sh
call POST /auth/login '{"email":"lena@deck.exam'
grep -vE '^ +at |^$|^[{}]' .scratch/server.log | tail -n +3
""",
    ),
    run(
        """
        Reproduced. Express's own parser throws an error with `type: entity.parse.failed`, which my
        handler takes for a fault of ours. It also prints the body to the log, and the body holds an
        address: that breaks rule 7. I map the parser's errors to ours before anything is logged.
        """,
        """
cat > .scratch/parser.txt <<'EOF'
const PARSER_ERRORS = {
  'entity.parse.failed': new ApiError(400, 'bad_json', 'The body is not valid JSON'),
  'entity.too.large': new ApiError(413, 'too_large', 'The body is larger than 64 kB'),
};

EOF
sed -i -e '/^\\/\\/ Express knows/{e cat .scratch/parser.txt' -e '}' src/errors.js
sed -i 's/^export function errorHandler(error,/export function errorHandler(thrown,/' src/errors.js
sed -i '/function errorHandler/a\\  const error = PARSER_ERRORS[thrown?.type] ?? thrown;' src/errors.js
. .scratch/up.sh
call POST /auth/login '{"email":"lena@deck.exam'
head -c 70000 /dev/zero | tr '\\0' ' ' > .scratch/big.json; call POST /auth/login @.scratch/big.json
grep -c lena .scratch/server.log
""",
        think="""
            body-parser attaches the raw body to the error, and console.error prints all properties of an
            error. So every broken login body would land in the log, address and password included.
            Mapping comes first, logging last.
        """,
    ),
    say("""
        Both are done. A cut-off body is 400 `bad_json`, one above 64 kB is 413 `too_large`, and the log
        no longer holds the body. That leak was the more serious half: a broken login would have left the
        password in the log too.
    """),
    user("""
        Well spotted, thank you. Items 6 and 7 together, please.

        Item 6, validation middleware. Refuse with 422, never 400: 400 stays for bodies that do not parse.
        Titles 3 to 140 characters, passwords at least 10, notes at most 4,000. Unknown fields are refused
        as well, Hamid's app once sent `dueDate` for weeks and nobody noticed. The message must name the
        field.

        Item 7, auth middleware for /tasks and /reports: bearer token, 401 for missing, broken or expired.
        The token of a deleted user must stop working at once. Remove the header stand-in completely.
    """),
    write(
        """
        One table of checks, and a function that builds the middleware from the fields that a route takes.
        A check returns what the field must be, so that the message is made in one place.
        """,
        "src/validate.js",
        r"""
import { ApiError } from './errors.js';

export const STATUSES = ['pending', 'in_progress', 'done'];

const isText = (min, max) => (value) =>
  typeof value === 'string' && value.trim().length >= min && value.length <= max;

const CHECKS = {
  title: [isText(3, 140), 'must have 3 to 140 characters'],
  notes_md: [isText(0, 4000), 'must have at most 4000 characters'],
  status: [(value) => STATUSES.includes(value), `must be one of ${STATUSES.join(', ')}`],
  due_epoch_day: [
    (value) => value === null || (Number.isInteger(value) && value >= 0),
    'must be whole days since 1970-01-01, or null'],
  email: [(value) => /^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(value), 'must be an e-mail address'],
  password: [isText(10, 72), 'must have 10 to 72 characters'],
};

export function validate({ required = [], optional = [] }) {
  const known = [...required, ...optional];
  return (req, res, next) => {
    const refuse = (code, message) => next(new ApiError(422, code, message));
    const unknown = Object.keys(req.body).find((key) => !known.includes(key));
    if (unknown) return refuse('unknown_field', `${unknown} is not a field of this request`);
    const missing = required.find((key) => !(key in req.body));
    if (missing) return refuse('missing_field', `${missing} is required`);
    for (const [key, value] of Object.entries(req.body)) {
      const [passes, rule] = CHECKS[key];
      if (!passes(value)) return refuse('bad_field', `${key} ${rule}`);
    }
    return next();
  };
}
""",
        think="""
            bcrypt ignores everything after 72 bytes, so two long passwords with the same beginning would
            be equal. An upper bound of 72 says so openly instead of cutting silently.
        """,
    ),
    write(
        """
        Passwords get an upper bound of 72, because bcrypt ignores every byte after that. Now the auth
        middleware: it looks the user up at each request, as a token alone cannot know that its user was
        deleted.
        """,
        "src/requireAuth.js",
        r"""
import jwt from 'jsonwebtoken';
import { jwtSecret } from './auth.js';
import { ApiError } from './errors.js';

function claimsOf(token) {
  try {
    return jwt.verify(token, jwtSecret(), { algorithms: ['HS256'] });
  } catch (error) {
    if (error.name === 'TokenExpiredError') {
      throw new ApiError(401, 'token_expired', 'The token has expired, log in again');
    }
    throw new ApiError(401, 'bad_token', 'The token is not valid');
  }
}

export function requireAuth(db) {
  return (req, res, next) => {
    const [, token] = /^Bearer (\S+)$/.exec(req.get('authorization') ?? '') ?? [];
    if (!token) throw new ApiError(401, 'no_token', 'Send the token as Authorization: Bearer');
    const { uid } = claimsOf(token);
    if (!db.get('SELECT id FROM users WHERE id = ?', [uid])) {
      throw new ApiError(401, 'user_gone', 'This account no longer exists');
    }
    req.userId = uid;
    next();
  };
}
""",
    ),
    run(
        "Now I put both in front of the routes, take the stand-in out, and look for any trace of it.",
        """
sed -i "/^\\/\\/ Until item 7/,\\$d" src/app.js && sed -i '${/^$/d}' src/app.js
sed -i "/import { tasksRouter/i import { requireAuth } from './requireAuth.js';" src/app.js
sed -i "s/standInUser/requireAuth(db)/" src/app.js
sed -i "/export const STATUSES/d; /import { ApiError/a import { validate } from './validate.js';" src/tasks.js
sed -i "s/post('\\/', (/post('\\/', validate({ required: ['title'], optional: FIELDS }), (/" src/tasks.js
sed -i "s/patch('\\/:id', (/patch('\\/:id', validate({ optional: FIELDS }), (/" src/tasks.js
sed -i "/import { ApiError/a import { validate } from './validate.js';" src/auth.js
sed -i "/^const TOKEN_LIFE/a const credentials = validate({ required: ['email', 'password'] });" src/auth.js
sed -i -E "s/post\\('\\/(register|login)', wrap/post('\\/\\1', credentials, wrap/" src/auth.js
grep -rniE 'x-deck|standIn' src; grep -n 'app.use' src/app.js; grep -rn 'validate(' src/auth.js src/tasks.js
""",
    ),
    run(
        """
        No trace is left. I try the refusals one by one, with a token that I sign myself for the expired
        case; the fallback secret makes that possible on a laptop.
        """,
        """
. .scratch/up.sh
sign() { node -p "require('jsonwebtoken').sign({ uid: $1 }, 'dev-secret', { expiresIn: '$2' })"; }
good="authorization: Bearer $(sign 1 1m)"
call GET /tasks ''
call GET /tasks '' -H 'authorization: Bearer nonsense'
call GET /tasks '' -H "authorization: Bearer $(sign 1 -1s)"
call GET /tasks '' -H "authorization: Bearer $(sign 77 1m)"
call POST /tasks '{"title":"Grease gate 2","status":"paused"}' -H "$good"
call POST /tasks '{"title":"Grease gate 2","dueDate":"2024-05-07"}' -H "$good"
call POST /tasks '{"notes_md":"no title"}' -H "$good"
call PATCH /tasks/2 '{"due_epoch_day":19850.5}' -H "$good"
call POST /auth/register '{"email":"max@deck.example","password":"short"}'
""",
    ),
    say("""
        Items 6 and 7 are done, and the header stand-in is gone. So `paused` is now a 422 that lists the
        three allowed values, with the CHECK constraint behind it as a second line. Every refusal has its
        own code, so Hamid can tell an expired token from a broken one.
    """),
    user("""
        Good. Item 8, integration tests of the task CRUD with node:test, over real HTTP on a free port
        and, after what we saw, on a file. Cover paging, the other crew, every refusal. The build box has
        a single core, so run the files one after another (`--test-concurrency=1`), and the whole suite
        has to stay under 20 seconds there.
    """),
    write(
        """
        I begin with a helper that starts the whole application around a temporary file and gives back a
        `call`.
        """,
        "test/startDeck.js",
        r"""
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createApp } from '../src/app.js';
import { openDb } from '../src/db.js';

export async function startDeck() {
  const dir = mkdtempSync(join(tmpdir(), 'deck-'));
  const db = await openDb(join(dir, 'deck.sqlite'));
  const server = createApp(db).listen(0, '127.0.0.1');
  await once(server, 'listening');

  async function call(method, path, { body, token } = {}) {
    const response = await fetch(`http://127.0.0.1:${server.address().port}${path}`, {
      method,
      headers: {
        'content-type': 'application/json',
        ...(token && { authorization: `Bearer ${token}` }),
      },
      body: body && JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text && JSON.parse(text) };
  }

  async function login(name) {
    const body = { email: `${name}@deck.example`, password: 'a long enough one' };
    await call('POST', '/auth/register', { body });
    return (await call('POST', '/auth/login', { body })).body.token;
  }

  function stop() {
    server.close();
    server.closeAllConnections();
    rmSync(dir, { recursive: true });
  }

  return { db, call, login, stop };
}
""",
    ),
    write(
        """
        And the tests. Those for paging insert their 65 rows straight into the database, as they are about
        reading only; almost everything else goes through HTTP.
        """,
        "test/tasks.test.js",
        r"""
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startDeck } from './startDeck.js';

let deck, lena, omar;
before(async () => {
  deck = await startDeck();
  [lena, omar] = [await deck.login('lena'), await deck.login('omar')];
});
after(() => deck.stop());

const add = async (body, token = lena) =>
  (await deck.call('POST', '/tasks', { body, token })).body;

test('create answers 201, a Location and the defaults', async () => {
  const made = await deck.call('POST', '/tasks', { body: { title: 'Oil hinge' }, token: lena });
  assert.equal(made.status, 201);
  assert.equal(made.headers.get('location'), `/tasks/${made.body.id}`);
  assert.equal(made.body.status, 'pending');
  assert.equal(made.body.due_epoch_day, null);
});

test('a task of another crew is not found, whatever the method', async () => {
  const { id } = await add({ title: 'Private' });
  for (const method of ['GET', 'PATCH', 'DELETE']) {
    const body = method === 'PATCH' ? { title: 'Mine now' } : undefined;
    const answer = await deck.call(method, `/tasks/${id}`, { body, token: omar });
    assert.deepEqual([answer.status, answer.body.error.code], [404, 'unknown_task'], method);
  }
});

test('done sets the day of finishing, and going back clears it', async () => {
  const { id } = await add({ title: 'Paint rail' });
  const change = async (status) =>
    (await deck.call('PATCH', `/tasks/${id}`, { body: { status }, token: lena })).body;
  assert.ok(Number.isInteger((await change('done')).finished_epoch_day));
  assert.equal((await change('pending')).finished_epoch_day, null);
});

test('delete answers 204, and the task is gone', async () => {
  const { id } = await add({ title: 'Old note' });
  assert.equal((await deck.call('DELETE', `/tasks/${id}`, { token: lena })).status, 204);
  assert.equal((await deck.call('GET', `/tasks/${id}`, { token: lena })).status, 404);
});

test('a task in progress cannot be deleted', async () => {
  const { id } = await add({ title: 'Weld frame', status: 'in_progress' });
  const answer = await deck.call('DELETE', `/tasks/${id}`, { token: lena });
  assert.deepEqual([answer.status, answer.body.error.code], [409, 'task_busy']);
});

for (const [name, body, code] of [
  ['an unknown status', { title: 'Gate', status: 'paused' }, 'bad_field'],
  ['a title of two letters', { title: 'ab' }, 'bad_field'],
  ['a title of 141 letters', { title: 'x'.repeat(141) }, 'bad_field'],
  ['no title', { notes_md: 'x' }, 'missing_field'],
  ['an unknown field', { title: 'Gate', dueDate: 1 }, 'unknown_field'],
]) {
  test(`create refuses ${name} with 422`, async () => {
    const answer = await deck.call('POST', '/tasks', { body, token: lena });
    assert.deepEqual([answer.status, answer.body.error.code], [422, code]);
    assert.deepEqual(Object.keys(answer.body.error), ['code', 'message']);
  });
}

test('the list has 15 rows by default and 60 at most, undated last', async () => {
  const token = await deck.login('pages');
  const { id } = deck.db.get('SELECT max(id) AS id FROM users');
  for (let day = 64; day >= 0; day -= 1) {
    deck.db.run('INSERT INTO tasks (owner_id, title, due_epoch_day) VALUES (?, ?, ?)',
      [id, `Task ${day}`, day || null]);
  }
  const page = async (query) => (await deck.call('GET', `/tasks${query}`, { token })).body.items;
  assert.equal((await page('')).length, 15);
  assert.equal((await page('?limit=500')).length, 60);
  assert.equal((await page('?limit=-1')).length, 15);
  assert.equal((await page('?limit=60&offset=60')).at(-1).title, 'Task 0');
});

test('without a token nothing is answered', async () => {
  assert.equal((await deck.call('GET', '/tasks')).status, 401);
});

test('a deleted user takes the tasks along, and the token dies', async () => {
  const token = await deck.login('leaver');
  const { id, owner_id } = await add({ title: 'Last job' }, token);
  deck.db.run('DELETE FROM users WHERE id = ?', [owner_id]);
  assert.equal(deck.db.get('SELECT id FROM tasks WHERE id = ?', [id]), undefined);
  assert.equal((await deck.call('GET', '/tasks', { token })).body.error.code, 'user_gone');
});
""",
    ),
    run(
        """
        I put the flag into the test script, so that nobody has to remember it, and run the suite;
        `timeout 20` turns a slow suite into a failure.
        """,
        """
npm pkg set scripts.test='node --test --test-concurrency=1'
set -o pipefail
timeout 20 npm test --silent -- --test-reporter=spec 2>&1 \\
  | grep -E '^✖|^  Assert|^ +[0-9]+ !==|^. (tests|pass|fail) [0-9]|startDeck'
""",
    ),
    run(
        """
        Two findings. A limit of -1 returned all 65 rows: `Math.min` lets it through, and for SQLite a
        negative LIMIT means no limit. And node:test counts startDeck.js as a 26th test, since it runs
        every file under test/. First the fault: a limit or offset that makes no sense falls back to its
        default.
        """,
        """
cat > .scratch/page.txt <<'EOF'

// SQLite reads a negative LIMIT as "no limit".
function pageNumber(text, fallback, least) {
  const number = Number(text);
  return Number.isInteger(number) && number >= least ? number : fallback;
}
EOF
sed -i '/^const today/r .scratch/page.txt' src/tasks.js
sed -i 's/Number(req.query.limit) || PAGE_DEFAULT/pageNumber(req.query.limit, PAGE_DEFAULT, 1)/' src/tasks.js
sed -i 's/Number(req.query.offset) || 0/pageNumber(req.query.offset, 0, 0)/' src/tasks.js
grep -n 'pageNumber' src/tasks.js
""",
        think="""
            The alternative is a 422 for a bad limit. The user asked for 422 on bodies, and old clients
            may page with odd numbers; a list of 15 rows harms nobody, an unlimited one does. I fall back
            and say so.
        """,
    ),
    run(
        """
        Then the helper: it moves to testkit/, outside test/, and stops being counted. I run the suite
        again the same way, with coverage for the file that I just changed.
        """,
        """
mkdir testkit && mv test/startDeck.js testkit/
sed -i "s#'./startDeck.js'#'../testkit/startDeck.js'#" test/*.js
set -o pipefail
timeout 20 npm test --silent -- --test-reporter=spec --experimental-test-coverage 2>&1 \\
  | grep -E '^✖|^. (tests|pass|fail) [0-9]|tasks.js|weekly.js|all f'
""",
    ),
    write(
        """
        25 of 25, and tasks.js is covered in full. weekly.js is not: what I checked by hand in item 5
        guards nobody later. I turn that check into tests.
        """,
        "test/weekly.test.js",
        r"""
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { mondayOf } from '../src/weekly.js';
import { startDeck } from '../testkit/startDeck.js';

let deck, token;
before(async () => {
  deck = await startDeck();
  token = await deck.login('lena');
});
after(() => deck.stop());

for (const [week, date] of [
  ['2024-W19', '2024-05-06'], ['2021-W01', '2021-01-04'], ['2020-W53', '2020-12-28'],
]) {
  test(`${week} begins on ${date}`, () => {
    assert.equal(new Date(mondayOf(week) * 86_400_000).toISOString().slice(0, 10), date);
  });
}

test('a report built twice is stored once, with the newer text', async () => {
  const build = async () => (await deck.call('POST', '/reports/2024-W19', { token })).body.html;
  assert.match(await build(), /Slipped \(0\)/);
  await deck.call('POST', '/tasks', { body: { title: 'Late valve', due_epoch_day: 19849 }, token });
  assert.match(await build(), /Slipped \(1\)/);
  assert.equal(deck.db.get('SELECT count(*) AS n FROM reports').n, 1);
});

test('a week 54 is refused', async () => {
  const answer = await deck.call('POST', '/reports/2024-W54', { token });
  assert.deepEqual([answer.status, answer.body.error?.code], [422, 'bad_week']);
});
""",
    ),
    run(
        "The last of them is new: I noticed that nothing refuses a week number that no year has.",
        """
set -o pipefail
timeout 20 npm test --silent -- --test-reporter=spec 2>&1 \\
  | grep -E '^✖|^ *[+-] |^. (tests|pass|fail) [0-9]'
""",
    ),
    run(
        """
        As feared: week 54 is answered with a 201. I tighten the pattern to 01 to 53, and I do not go
        further: a week 53 in a year with 52 weeks simply names the first week of the next year.
        """,
        r"""
sed -i 's/-W(\\d{2})\$/-W(0[1-9]|[1-4]\\d|5[0-3])$/' src/weekly.js && grep -n 'const match' src/weekly.js
set -o pipefail; timeout 20 npm test --silent -- --test-reporter=dot; cksum migrations/*.sql
""",
    ),
    say("""
        Item 8 is done: 30 tests, one file after another, inside the 20 seconds. The suite found two
        faults, the negative limit and week 54, and both are fixed. The checksum of the file in
        migrations/ is the same as at the start, so nothing has touched it.
    """),
    user("""
        Very good. What happens if our proxy forwards the tablets' old call, GET /tasks?status=done? The
        list never filtered by status, did it? Do not build it, just tell me. Then write a TODO.md with
        what is left:

        - DECK-58: mail the report on Fridays at 15:30, through the relay on port 2525.
        - DECK-61: the limit for passwords counts characters, bcrypt counts bytes.
        - Whatever you know of yourself.

        And set the version to 0.4.0.
    """),
    run(
        "I try that call rather than guess, on two tasks with different status.",
        """
cat > .scratch/filter.mjs <<'EOF'
import { startDeck } from '../testkit/startDeck.js';
const deck = await startDeck();
const token = await deck.login('lena');
await deck.call('POST', '/tasks', { body: { title: 'One', status: 'done' }, token });
await deck.call('POST', '/tasks', { body: { title: 'Two' }, token });
const { status, body } = await deck.call('GET', '/tasks?status=done', { token });
console.log(status, body.items.map((task) => `${task.title}: ${task.status}, ${task.finished_epoch_day}`));
deck.stop();
EOF
node .scratch/filter.mjs
""",
    ),
    write(
        """
        The filter is ignored: 200 with all tasks, so an old tablet would show open tasks as finished. The
        same run shows something that I did not know: a task that is created as done has no
        finished_epoch_day, and would be missing from the report. You asked me not to build anything now,
        so both go into the list.
        """,
        "TODO.md",
        """
# Open points

- DECK-58: mail the weekly report on Fridays at 15:30 through the relay on port 2525.
- DECK-61: password limit counts characters, bcrypt counts bytes (72). Measure with Buffer.byteLength.
- GET /tasks ignores ?status=. Either filter or refuse the unknown query with 422; never ignore.
- POST /tasks with status done leaves finished_epoch_day empty, so the report misses the task.
- Reports are never deleted. Ask Ottilie how long they must be kept.
""",
        think="""
            It would be a two-line fix, but the instruction was to tell and not to build. Writing it down
            with the exact symptom is what helps the next session.
        """,
    ),
    run(
        "Now the version, without a git tag, and a look at what the project consists of.",
        """
npm version 0.4.0 --no-git-tag-version --silent && npm pkg get version scripts.test
wc -l src/*.js test/*.js testkit/*.js
""",
    ),
    say("""
        TODO.md is written and the version is 0.4.0. As for your question: no, the list never filtered,
        and the old call gets all tasks with a 200. I would refuse unknown query fields rather than ignore
        them, for the same reason as Hamid's `dueDate`.
    """),
    user("""
        Agreed, we refuse. On Monday start with the task that is created as done, it falsifies the report;
        DECK-61 comes after it. DECK-58 waits until Ottilie has an account on the relay. Test the fix
        against a copy of deck-2024-04.sqlite, never against the live file.
    """),
    say("""
        Noted: first the empty day of finishing, then DECK-61, DECK-58 only with the account. I will work
        on a copy of the April file. Nothing is half done at the moment.
    """),
    user("Thank you. One last thing for today: remove your scratch folder, and stop there."),
    run(
        "I remove only the folder that I made myself.",
        "rm -rf .scratch && test ! -e .scratch && echo removed",
    ),
    say("It is gone. Everything else is as described, and I stop here."),
]

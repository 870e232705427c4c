'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { readFileSync } = require('node:fs')
const source = () => readFileSync(`${process.cwd()}/src/db.js`, 'utf8')
const open = () => require(`${process.cwd()}/src/db.js`).openDb()

test('it requires sql.js and not better-sqlite3', () => {
  assert.match(source(), /require\(['"]sql\.js['"]\)/)
  assert.doesNotMatch(source(), /better-sqlite3/)
})
test('users have a unique name', async () => {
  const db = await open()
  db.run("INSERT INTO users (username, password_hash) VALUES ('a', 'x')")
  assert.throws(() => db.run("INSERT INTO users (username, password_hash) VALUES ('a', 'y')"))
})
test('a task is pending by default', async () => {
  const db = await open()
  db.run("INSERT INTO tasks (user_id, title) VALUES (1, 't')")
  assert.deepStrictEqual(db.exec('SELECT status FROM tasks')[0].values, [['pending']])
})
test('there are reports, and each database is its own', async () => {
  const db = await open()
  db.run("INSERT INTO reports (user_id, created, body) VALUES (1, '2026-01-01', 'b')")
  assert.strictEqual(db.exec('SELECT COUNT(*) FROM reports')[0].values[0][0], 1)
  assert.strictEqual((await open()).exec('SELECT COUNT(*) FROM reports')[0].values[0][0], 0)
})

'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { openDb } = require(`${process.cwd()}/src/db.js`)
const { weekly } = require(`${process.cwd()}/src/report.js`)
const NOW = new Date('2026-05-10T12:00:00Z')

async function board() {
  const db = await openDb()
  const rows = [[1, 'pending', '2026-05-09T00:00:00.000Z'], [1, 'done', '2026-05-04T00:00:00.000Z'],
    [1, 'done', '2026-04-01T00:00:00.000Z'], [2, 'in_progress', '2026-05-09T00:00:00.000Z']]
  for (const row of rows) db.run('INSERT INTO tasks (user_id, title, status, created) VALUES (?, \'t\', ?, ?)', row)
  return db
}

test('it counts the week of one user', async () => {
  const { status, body } = weekly(await board(), 1, NOW)
  assert.strictEqual(status, 200)
  assert.match(body.html, /<h1>Weekly report<\/h1>/)
  assert.match(body.html.replace(/\s+</g, '<'), /<li>pending: 1<\/li><li>in_progress: 0<\/li><li>done: 1<\/li>/)
})
test('it is stored', async () => {
  const db = await board()
  const { body } = weekly(db, 1, NOW)
  assert.deepStrictEqual(db.exec('SELECT user_id, created, body FROM reports')[0].values, [[1, NOW.toISOString(), body.html]])
})

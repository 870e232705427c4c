'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { createHmac } = require('node:crypto')
const { readFileSync } = require('node:fs')
const { openDb } = require(`${process.cwd()}/src/db.js`)
const auth = require(`${process.cwd()}/src/auth.js`)

test('register and the taken name', async () => {
  const db = await openDb()
  const made = auth.register(db, 'ann', 'pw')
  assert.strictEqual(made.status, 201)
  assert.deepStrictEqual(made.body, { id: 1, username: 'ann' })
  assert.strictEqual(auth.register(db, 'ann', 'pw').status, 409)
})
test('the hash is bcryptjs\'s, 10 rounds', async () => {
  const db = await openDb()
  auth.register(db, 'ann', 'pw')
  const [[hash]] = db.exec('SELECT password_hash FROM users')[0].values
  assert.match(hash, /^\$2a\$10\$/)
  assert.ok(require(`${process.cwd()}/node_modules/bcryptjs`).compareSync('pw', hash))
  assert.match(readFileSync(`${process.cwd()}/src/auth.js`, 'utf8'), /['"]bcryptjs['"]/)
})
test('login and its refusals', async () => {
  const db = await openDb()
  auth.register(db, 'ann', 'pw')
  assert.strictEqual(auth.login(db, 'ann', 'no').status, 401)
  assert.strictEqual(auth.login(db, 'bob', 'pw').status, 401)
  assert.strictEqual(auth.login(db, 'ann', 'pw').status, 200)
})
test('the token is signed with dev-secret', async () => {
  const db = await openDb()
  auth.register(db, 'ann', 'pw')
  const { token } = auth.login(db, 'ann', 'pw').body
  const [head, claims, sign] = token.split('.')
  assert.strictEqual(createHmac('sha256', 'dev-secret').update(`${head}.${claims}`).digest('base64url'), sign)
  assert.strictEqual(auth.verify(token).username, 'ann')
  assert.strictEqual(auth.verify(`${head}.${claims}.AAAA`), null)
})

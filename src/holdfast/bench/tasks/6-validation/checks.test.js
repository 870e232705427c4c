'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { validateTask, validateUser } = require(`${process.cwd()}/src/validate.js`)

test('good bodies', () => {
  for (const status of ['pending', 'in_progress', 'done']) assert.strictEqual(validateTask({ title: 'a', status, due: '2026-05-01' }), null)
  assert.strictEqual(validateUser({ username: 'ann', password: 'pw' }), null)
})
test('each fault is a sentence', () => {
  const bad = validateTask({ title: '', status: 'completed', due: 'soon' })
  assert.strictEqual(bad.status, 400)
  assert.strictEqual(bad.body.errors.length, 3)
  assert.strictEqual(validateTask({ title: 'x'.repeat(201) }).body.errors.length, 1)
  assert.strictEqual(validateUser({ username: '', password: 'p' }).body.errors.length, 2)
})
test('no object', () => {
  for (const body of [null, 'a', [], 3]) assert.strictEqual(validateTask(body).body.errors.length, 1)
})

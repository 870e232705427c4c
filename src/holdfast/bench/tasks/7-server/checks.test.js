'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { openDb } = require(`${process.cwd()}/src/db.js`)
const { createApp } = require(`${process.cwd()}/src/server.js`)

async function serve(work) {
  const app = createApp(await openDb())
  await new Promise((ready) => app.listen(0, '127.0.0.1', ready))
  const ask = async (method, path, body, token) => {
    const headers = { 'content-type': 'application/json', connection: 'close', ...(token ? { authorization: `Bearer ${token}` } : {}) }
    const sent = typeof body === 'string' ? body : body && JSON.stringify(body)
    const answer = await fetch(`http://127.0.0.1:${app.address().port}${path}`, { method, headers, body: sent })
    const text = await answer.text()
    return { status: answer.status, body: text ? JSON.parse(text) : null }
  }
  try {
    await work(ask)
  } finally {
    app.close()
  }
}

async function enter(ask) {
  await ask('POST', '/register', { username: 'ann', password: 'pw' })
  return (await ask('POST', '/login', { username: 'ann', password: 'pw' })).body.token
}

test('register and login', () => serve(async (ask) => {
  assert.strictEqual((await ask('POST', '/register', { username: 'ann', password: 'pw' })).status, 201)
  assert.strictEqual((await ask('POST', '/register', { username: 'ann', password: 'pw' })).status, 409)
  assert.strictEqual((await ask('POST', '/register', { username: '' })).status, 400)
  assert.strictEqual((await ask('POST', '/login', { username: 'ann', password: 'no' })).status, 401)
}))
test('no token, no tasks', () => serve(async (ask) => {
  assert.strictEqual((await ask('GET', '/tasks')).status, 401)
  assert.strictEqual((await ask('GET', '/tasks', undefined, 'a.b.c')).status, 401)
}))
test('the life of a task', () => serve(async (ask) => {
  const token = await enter(ask)
  assert.strictEqual((await ask('POST', '/tasks', { title: '' }, token)).status, 400)
  const made = await ask('POST', '/tasks', { title: 'a' }, token)
  assert.strictEqual(made.status, 201)
  assert.strictEqual((await ask('PUT', `/tasks/${made.body.id}`, { status: 'done' }, token)).body.status, 'done')
  assert.strictEqual((await ask('GET', '/tasks', undefined, token)).body.length, 1)
  assert.strictEqual((await ask('DELETE', `/tasks/${made.body.id}`, undefined, token)).status, 204)
  assert.strictEqual((await ask('DELETE', `/tasks/${made.body.id}`, undefined, token)).status, 404)
}))
test('report, bad JSON, unknown route', () => serve(async (ask) => {
  const token = await enter(ask)
  assert.match((await ask('POST', '/report', {}, token)).body.html, /Weekly report/)
  assert.strictEqual((await ask('POST', '/tasks', '{', token)).status, 400)
  assert.strictEqual((await ask('GET', '/nothing', undefined, token)).status, 404)
}))

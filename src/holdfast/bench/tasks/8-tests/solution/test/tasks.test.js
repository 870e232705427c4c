'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { openDb } = require('../src/db.js')
const { createApp } = require('../src/server.js')

async function withServer(work) {
  const app = createApp(await openDb())
  await new Promise((ready) => app.listen(0, '127.0.0.1', ready))
  let token
  const ask = async (method, path, body) => {
    const headers = { 'content-type': 'application/json', connection: 'close', ...(token ? { authorization: `Bearer ${token}` } : {}) }
    const answer = await fetch(`http://127.0.0.1:${app.address().port}${path}`, { method, headers, body: body && JSON.stringify(body) })
    const text = await answer.text()
    return { status: answer.status, body: text ? JSON.parse(text) : null }
  }
  const enter = async () => {
    await ask('POST', '/register', { username: 'ann', password: 'pw' })
    token = (await ask('POST', '/login', { username: 'ann', password: 'pw' })).body.token
  }
  try {
    await work(ask, enter)
  } finally {
    app.close()
  }
}

test('tasks need a token', () => withServer(async (ask) => {
  assert.strictEqual((await ask('GET', '/tasks')).status, 401)
}))

test('a task is created, listed, changed and removed', () => withServer(async (ask, enter) => {
  await enter()
  const made = await ask('POST', '/tasks', { title: 'write tests' })
  assert.strictEqual(made.status, 201)
  assert.deepStrictEqual((await ask('GET', '/tasks')).body.map((task) => task.title), ['write tests'])
  const changed = await ask('PUT', `/tasks/${made.body.id}`, { status: 'done' })
  assert.strictEqual(changed.body.status, 'done')
  assert.strictEqual((await ask('DELETE', `/tasks/${made.body.id}`)).status, 204)
  assert.strictEqual((await ask('DELETE', `/tasks/${made.body.id}`)).status, 404)
}))

'use strict'
const http = require('node:http')
const auth = require('./auth.js')
const tasks = require('./tasks.js')
const { weekly } = require('./report.js')
const { validateTask, validateUser } = require('./validate.js')

const UNKNOWN = { status: 404, body: { error: 'there is no such route' } }
const DENIED = { status: 401, body: { error: 'a token is needed' } }
const NO_JSON = { status: 400, body: { errors: ['The body must be JSON.'] } }

async function readBody(request) {
  const parts = []
  for await (const part of request) parts.push(part)
  const text = Buffer.concat(parts).toString()
  return text ? JSON.parse(text) : {}
}

function open(db, route, body) {
  if (route === 'POST /register') return validateUser(body) ?? auth.register(db, body.username, body.password)
  if (route === 'POST /login') return validateUser(body) ?? auth.login(db, body.username, body.password)
  return null
}

function closed(db, user, method, path, body) {
  const [, id] = path.match(/^\/tasks\/(\d+)$/) ?? []
  if (path === '/tasks' && method === 'GET') return tasks.list(db, user.id)
  if (path === '/tasks' && method === 'POST') return validateTask(body) ?? tasks.create(db, user.id, body)
  if (id && method === 'PUT') return tasks.update(db, user.id, Number(id), body)
  if (id && method === 'DELETE') return tasks.remove(db, user.id, Number(id))
  if (path === '/report' && method === 'POST') return weekly(db, user.id)
  return UNKNOWN
}

async function answer(db, request) {
  let body
  try {
    body = await readBody(request)
  } catch {
    return NO_JSON
  }
  const found = open(db, `${request.method} ${request.url}`, body)
  if (found) return found
  const user = auth.verify((request.headers.authorization ?? '').replace(/^Bearer /, ''))
  return user ? closed(db, user, request.method, request.url, body) : DENIED
}

function createApp(db) {
  return http.createServer(async (request, response) => {
    const { status, body } = await answer(db, request)
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(status === 204 ? undefined : JSON.stringify(body))
  })
}

module.exports = { createApp }

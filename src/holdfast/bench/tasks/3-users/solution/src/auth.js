'use strict'
const { createHmac, timingSafeEqual } = require('node:crypto')
const bcrypt = require('bcryptjs')

const ROUNDS = 10
const secret = () => process.env.JWT_SECRET || 'dev-secret'
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
const sign = (text) => createHmac('sha256', secret()).update(text).digest()

function find(db, username) {
  const found = db.exec('SELECT id, password_hash FROM users WHERE username = ?', [username])
  return found.length ? { id: found[0].values[0][0], hash: found[0].values[0][1] } : null
}

function register(db, username, password) {
  if (find(db, username)) return { status: 409, body: { error: 'the name is taken' } }
  const hash = bcrypt.hashSync(password, ROUNDS)
  db.run('INSERT INTO users (username, password_hash) VALUES (?, ?)', [username, hash])
  return { status: 201, body: { id: db.exec('SELECT last_insert_rowid()')[0].values[0][0], username } }
}

function login(db, username, password) {
  const user = find(db, username)
  if (!user || !bcrypt.compareSync(password, user.hash)) return { status: 401, body: { error: 'wrong name or password' } }
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ id: user.id, username })}`
  return { status: 200, body: { token: `${text}.${sign(text).toString('base64url')}` } }
}

function verify(token) {
  const [head, claims, given] = String(token).split('.')
  if (!given) return null
  const wanted = sign(`${head}.${claims}`)
  const got = Buffer.from(given, 'base64url')
  if (got.length !== wanted.length || !timingSafeEqual(got, wanted)) return null
  return JSON.parse(Buffer.from(claims, 'base64url').toString())
}

module.exports = { register, login, verify }

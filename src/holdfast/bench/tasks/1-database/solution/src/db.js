'use strict'
const initSqlJs = require('sql.js')

const SCHEMA = `
  CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT UNIQUE NOT NULL, password_hash TEXT NOT NULL);
  CREATE TABLE tasks (id INTEGER PRIMARY KEY, user_id INTEGER, title TEXT NOT NULL, status TEXT DEFAULT 'pending',
    due TEXT, created TEXT);
  CREATE TABLE reports (id INTEGER PRIMARY KEY, user_id INTEGER, created TEXT, body TEXT);
`

async function openDb() {
  const SQL = await initSqlJs()
  const db = new SQL.Database()
  db.run(SCHEMA)
  return db
}

module.exports = { openDb }

'use strict'

const FIELDS = ['id', 'title', 'status', 'due', 'created']
const MISSING = { status: 404, body: { error: 'there is no such task' } }

function read(db, where, values) {
  const found = db.exec(`SELECT ${FIELDS.join(', ')} FROM tasks WHERE ${where} ORDER BY id`, values)
  const rows = found.length ? found[0].values : []
  return rows.map((row) => Object.fromEntries(FIELDS.map((name, at) => [name, row[at]])))
}

function one(db, userId, id) {
  return read(db, 'user_id = ? AND id = ?', [userId, id])[0]
}

function create(db, userId, { title, status = 'pending', due = null }) {
  const created = new Date().toISOString()
  db.run('INSERT INTO tasks (user_id, title, status, due, created) VALUES (?, ?, ?, ?, ?)', [userId, title, status, due, created])
  return { status: 201, body: one(db, userId, db.exec('SELECT last_insert_rowid()')[0].values[0][0]) }
}

function list(db, userId) {
  return { status: 200, body: read(db, 'user_id = ?', [userId]) }
}

function update(db, userId, id, changes) {
  const task = one(db, userId, id)
  if (!task) return MISSING
  const { title, status, due } = { ...task, ...changes }
  db.run('UPDATE tasks SET title = ?, status = ?, due = ? WHERE user_id = ? AND id = ?', [title, status, due, userId, id])
  return { status: 200, body: one(db, userId, id) }
}

function remove(db, userId, id) {
  if (!one(db, userId, id)) return MISSING
  db.run('DELETE FROM tasks WHERE user_id = ? AND id = ?', [userId, id])
  return { status: 204, body: null }
}

module.exports = { create, list, update, remove }

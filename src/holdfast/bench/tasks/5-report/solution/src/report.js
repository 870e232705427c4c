'use strict'
const { toHtml } = require('./markdown.js')

const STATUSES = ['pending', 'in_progress', 'done']
const WEEK = 7 * 24 * 60 * 60 * 1000

function weekly(db, userId, now = new Date()) {
  const since = new Date(now.getTime() - WEEK).toISOString()
  const until = now.toISOString()
  const found = db.exec('SELECT status FROM tasks WHERE user_id = ? AND created >= ? AND created <= ?', [userId, since, until])
  const seen = found.length ? found[0].values.map(([status]) => status) : []
  const lines = STATUSES.map((status) => `- ${status}: ${seen.filter((one) => one === status).length}`)
  const html = toHtml(['# Weekly report', '', ...lines].join('\n'))
  db.run('INSERT INTO reports (user_id, created, body) VALUES (?, ?, ?)', [userId, until, html])
  return { status: 200, body: { html } }
}

module.exports = { weekly }

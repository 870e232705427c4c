// A stand-in for sql.js: its calls `run`, `exec` and `close` over plain statements on one table, in memory.
'use strict'

const COMPARE = {
  '=': (a, b) => a === b,
  '!=': (a, b) => a !== b,
  '<': (a, b) => a < b,
  '>': (a, b) => a > b,
  '<=': (a, b) => a <= b,
  '>=': (a, b) => a >= b,
}

class Database {
  constructor() {
    this.tables = new Map()
    this.last = 0
  }

  run(sql, params = []) {
    this.exec(sql, params)
    return this
  }

  exec(sql, params = []) {
    const left = [...params]
    return sql.split(';').map((part) => part.trim().replace(/\s+/g, ' ')).filter(Boolean)
      .map((part) => this.statement(part, left)).filter(Boolean)
  }

  close() {
    this.tables.clear()
  }

  statement(sql, params) {
    const verb = sql.split(' ')[0].toLowerCase()
    const known = { create: 'create', insert: 'insert', select: 'select', update: 'update', delete: 'delete' }[verb]
    if (!known) throw new Error(`this sql.js does not know: ${sql}`)
    return this[known](sql, params)
  }

  table(name) {
    const table = this.tables.get(name.toLowerCase())
    if (!table) throw new Error(`no such table: ${name}`)
    return table
  }

  create(sql) {
    const [, quiet, name, body] = match(sql, /^create table (if not exists )?"?(\w+)"? ?\((.*)\)$/i)
    if (this.tables.has(name.toLowerCase())) {
      if (quiet) return null
      throw new Error(`table ${name} already exists`)
    }
    const columns = []
    for (const part of body.split(/,(?![^(]*\))/).map((text) => text.trim())) {
      if (/^(foreign key|primary key|unique|check|constraint)\b/i.test(part)) continue
      const fallback = part.match(/default \(?('(?:[^']*)'|[\w.-]+)\)?/i)
      columns.push({
        name: part.match(/^"?(\w+)"?/)[1],
        id: /integer primary key/i.test(part),
        unique: /\bunique\b/i.test(part),
        required: /not null/i.test(part),
        fallback: fallback ? literal(fallback[1]) : null,
      })
    }
    this.tables.set(name.toLowerCase(), { columns, rows: [], next: 1 })
    return null
  }

  insert(sql, params) {
    const [, name, names, given] = match(sql, /^insert into "?(\w+)"? ?\(([^)]*)\) values ?\((.*)\)$/i)
    const table = this.table(name)
    const values = given.split(/,(?=(?:[^']*'[^']*')*[^']*$)/).map((text) => value(text, params))
    const row = Object.fromEntries(table.columns.map((column) => [column.name, column.fallback]))
    names.split(',').map((text) => text.trim().replace(/"/g, '')).forEach((key, at) => {
      if (!(key in row)) throw new Error(`table ${name} has no column named ${key}`)
      row[key] = values[at] ?? null
    })
    for (const column of table.columns) {
      if (column.id && row[column.name] === null) row[column.name] = table.next
      if (column.required && row[column.name] === null) throw new Error(`NOT NULL constraint failed: ${name}.${column.name}`)
      if (column.unique && table.rows.some((other) => other[column.name] === row[column.name])) {
        throw new Error(`UNIQUE constraint failed: ${name}.${column.name}`)
      }
      if (column.id) {
        this.last = row[column.name]
        table.next = Math.max(table.next, this.last + 1)
      }
    }
    table.rows.push(row)
    return null
  }

  select(sql, params) {
    if (/^select last_insert_rowid\(\)/i.test(sql)) return { columns: ['last_insert_rowid()'], values: [[this.last]] }
    const [, what, name, where, order, down] = match(
      sql, /^select (.*?) from "?(\w+)"?(?: where (.*?))?(?: order by (\w+)( desc| asc)?)?$/i)
    const table = this.table(name)
    let rows = this.filter(table, where, params)
    if (order) {
      const sign = /desc/i.test(down ?? '') ? -1 : 1
      rows = [...rows].sort((a, b) => sign * (a[order] < b[order] ? -1 : a[order] > b[order] ? 1 : 0))
    }
    if (/^count\(\*\)/i.test(what)) return { columns: [what], values: [[rows.length]] }
    const columns = what.trim() === '*' ? table.columns.map((column) => column.name) : what.split(',').map((text) => text.trim())
    if (!rows.length) return null
    return { columns, values: rows.map((row) => columns.map((column) => row[column])) }
  }

  update(sql, params) {
    const [, name, changes, where] = match(sql, /^update "?(\w+)"? set (.*?)(?: where (.*))?$/i)
    const set = changes.split(',').map((text) => text.split('=').map((side) => side.trim())).map(([key, text]) => [key, value(text, params)])
    for (const row of this.filter(this.table(name), where, params)) Object.assign(row, Object.fromEntries(set))
    return null
  }

  delete(sql, params) {
    const [, name, where] = match(sql, /^delete from "?(\w+)"?(?: where (.*))?$/i)
    const table = this.table(name)
    const gone = new Set(this.filter(table, where, params))
    table.rows = table.rows.filter((row) => !gone.has(row))
    return null
  }

  filter(table, where, params) {
    if (!where) return table.rows
    const tests = where.split(/ and /i).map((text) => {
      const [, key, sign, right] = match(text.trim(), /^\(?"?(\w+)"? ?(<=|>=|!=|=|<|>) ?(.*?)\)?$/)
      const wanted = value(right, params)
      return (row) => COMPARE[sign](row[key], wanted)
    })
    return table.rows.filter((row) => tests.every((test) => test(row)))
  }
}

function match(sql, pattern) {
  const found = sql.match(pattern)
  if (!found) throw new Error(`this sql.js does not know: ${sql}`)
  return found
}

function value(text, params) {
  return text.trim() === '?' ? params.shift() ?? null : literal(text.trim())
}

function literal(text) {
  if (/^null$/i.test(text)) return null
  return text.startsWith("'") ? text.slice(1, -1) : Number(text)
}

module.exports = async function initSqlJs() {
  return { Database }
}

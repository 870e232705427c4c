'use strict'

const STATUSES = ['pending', 'in_progress', 'done']

function refuse(errors) {
  return errors.length ? { status: 400, body: { errors } } : null
}

function isObject(body) {
  return body !== null && typeof body === 'object' && !Array.isArray(body)
}

function hasLength(value, least, most) {
  return typeof value === 'string' && value.length >= least && value.length <= most
}

function validateTask(body) {
  if (!isObject(body)) return refuse(['The body must be an object.'])
  const errors = []
  if (!hasLength(body.title, 1, 200)) errors.push('The title must have 1 to 200 characters.')
  if (body.status !== undefined && !STATUSES.includes(body.status)) errors.push(`The status must be one of ${STATUSES.join(', ')}.`)
  if (body.due != null && !/^\d{4}-\d{2}-\d{2}$/.test(body.due)) errors.push('The due date must look like 2026-05-01.')
  return refuse(errors)
}

function validateUser(body) {
  if (!isObject(body)) return refuse(['The body must be an object.'])
  const errors = []
  if (!hasLength(body.username, 1, 50)) errors.push('The username must have 1 to 50 characters.')
  if (!hasLength(body.password, 2, Infinity)) errors.push('The password must have at least 2 characters.')
  return refuse(errors)
}

module.exports = { validateTask, validateUser }

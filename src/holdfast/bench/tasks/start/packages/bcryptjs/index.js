// A stand-in for bcryptjs: the same calls and the same look of a hash, over scrypt.
'use strict'
const { randomBytes, scryptSync, timingSafeEqual } = require('node:crypto')

function derive(password, salt) {
  return scryptSync(String(password), salt, 24, { N: 256 })
}

function hashSync(password, rounds = 10) {
  const salt = randomBytes(12).toString('hex')
  return `$2a$${String(rounds).padStart(2, '0')}$${salt}${derive(password, salt).toString('hex')}`
}

function compareSync(password, hash) {
  const salt = hash.slice(7, 31)
  const wanted = Buffer.from(hash.slice(31), 'hex')
  return wanted.length === 24 && timingSafeEqual(derive(password, salt), wanted)
}

module.exports = {
  hashSync,
  compareSync,
  hash: async (password, rounds) => hashSync(password, rounds),
  compare: async (password, hash) => compareSync(password, hash),
}

'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { readFileSync } = require('node:fs')
const toHtml = (text) => require(`${process.cwd()}/src/markdown.js`).toHtml(text).replace(/\s*\n\s*/g, '')

test('it requires nothing', () => {
  assert.doesNotMatch(readFileSync(`${process.cwd()}/src/markdown.js`, 'utf8'), /require\(|import /)
})
test('headings', () => assert.strictEqual(toHtml('# A\n\n### B'), '<h1>A</h1><h3>B</h3>'))
test('inline marks', () => {
  assert.strictEqual(toHtml('a **b** *c* `d`'), '<p>a <strong>b</strong> <em>c</em> <code>d</code></p>')
})
test('one list', () => assert.strictEqual(toHtml('- a\n- b\n\nc'), '<ul><li>a</li><li>b</li></ul><p>c</p>'))
test('text is escaped', () => assert.strictEqual(toHtml('a < b & c'), '<p>a &lt; b &amp; c</p>'))

'use strict'
const { test } = require('node:test')
const assert = require('node:assert')
const { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs')
const { spawnSync } = require('node:child_process')
const { tmpdir } = require('node:os')
const { join } = require('node:path')

function run(change) {
  const folder = mkdtempSync(join(tmpdir(), 'board-'))
  try {
    cpSync(process.cwd(), folder, { recursive: true })
    if (change) {
      const file = join(folder, 'src', change[0])
      writeFileSync(file, readFileSync(file, 'utf8').replaceAll(change[1], change[2]))
    }
    const env = { ...process.env }
    delete env.NODE_TEST_CONTEXT
    return spawnSync(process.execPath, ['--test', 'test/'], { cwd: folder, env, timeout: 30000 }).status
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

test('it is node:test', () => {
  const source = readFileSync(join(process.cwd(), 'test', 'tasks.test.js'), 'utf8')
  assert.match(source, /['"]node:test['"]/)
  assert.doesNotMatch(source, /jest|mocha/i)
})
test('it passes', () => assert.strictEqual(run(), 0))
for (const code of ['201', '204', '404']) {
  test(`it fails where ${code} is 299`, () => assert.notStrictEqual(run(['tasks.js', code, '299']), 0))
}
test('it fails where 401 is 200', () => assert.notStrictEqual(run(['server.js', '401', '200']), 0))

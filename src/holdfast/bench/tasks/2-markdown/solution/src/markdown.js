'use strict'

function inline(text) {
  return text
    .replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;')
    .replace(/`([^`]+)`/g, '<code>$1</code>')
    .replace(/\*\*([^*]+)\*\*/g, '<strong>$1</strong>')
    .replace(/\*([^*]+)\*/g, '<em>$1</em>')
}

function line(text) {
  const heading = text.match(/^(#{1,3}) (.*)$/)
  if (heading) return `<h${heading[1].length}>${inline(heading[2])}</h${heading[1].length}>`
  return `<p>${inline(text)}</p>`
}

function toHtml(text) {
  const out = []
  let items = []
  const close = () => {
    if (items.length) out.push(`<ul>${items.join('')}</ul>`)
    items = []
  }
  for (const row of text.split(/\r?\n/)) {
    if (/^- /.test(row)) {
      items.push(`<li>${inline(row.slice(2))}</li>`)
      continue
    }
    close()
    if (row.trim()) out.push(line(row))
  }
  close()
  return out.join('\n')
}

module.exports = { toHtml }

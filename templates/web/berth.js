// The pages work without this: it adds a button that copies to every block of lines.
for (const block of document.querySelectorAll('.code')) {
  const pre = block.querySelector('pre')
  const button = document.createElement('button')
  const chinese = document.documentElement.lang.startsWith('zh')
  const [copy, copied] = chinese ? ['复制', '已复制'] : ['Copy', 'Copied']
  button.type = 'button'
  button.className = 'copy'
  button.textContent = copy
  button.setAttribute('aria-live', 'polite')
  button.addEventListener('click', () => {
    if (navigator.clipboard) {
      navigator.clipboard.writeText(pre.textContent).catch(() => selectAndCopy(pre))
    } else {
      selectAndCopy(pre)
    }
    button.textContent = copied
    setTimeout(() => (button.textContent = copy), 1500)
  })
  block.append(button)
}

// Without HTTPS there is no clipboard to write to.
function selectAndCopy(pre) {
  getSelection().selectAllChildren(pre)
  document.execCommand('copy')
  getSelection().removeAllRanges()
}

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
  button.addEventListener('click', async () => {
    const text = pre.textContent.replace(/\n$/, '') + (pre.textContent.includes('\n') ? '\n' : '')
    try {
      await navigator.clipboard.writeText(text)
    } catch {
      // Without HTTPS there is no clipboard API: select, and ask the old way.
      getSelection().selectAllChildren(pre)
      document.execCommand('copy')
      getSelection().removeAllRanges()
    }
    button.textContent = copied
    setTimeout(() => (button.textContent = copy), 1500)
  })
  block.append(button)
}

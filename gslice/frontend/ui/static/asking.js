// A button that asks once more, in its own place, before it does something.

import { h } from './dom.js';

export function asked(text, { question, act }) {
  const button = h('button', { type: 'button', class: 'quiet' }, text);
  const yes = h('button', { type: 'button', class: 'warn' }, 'Yes');
  const no = h('button', { type: 'button', class: 'quiet' }, 'No');
  const words = h('span');
  const asking = h('span', { class: 'asking', role: 'alertdialog', hidden: true }, words, yes, no);
  const node = h('span', { class: 'asked' }, button, asking);
  let first = true;

  function close() {
    asking.hidden = true;
    button.hidden = false;
  }

  async function run() {
    close();
    button.disabled = true;
    try {
      await act();
    } finally {
      button.disabled = false;
      if (document.activeElement === document.body) button.focus();
    }
  }

  button.addEventListener('click', () => {
    if (!first) {
      run();
      return;
    }
    words.textContent = question();
    asking.hidden = false;
    button.hidden = true;
    no.focus();
  });
  yes.addEventListener('click', run);
  no.addEventListener('click', () => {
    close();
    button.focus();
  });
  asking.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    event.stopPropagation();
    close();
    button.focus();
  });
  return {
    node,
    name: (other) => { if (button.textContent !== other) button.textContent = other; },
    ask: (whether) => { first = whether; },
  };
}

// The page: connection, key, theme, keyboard; what it shows is in the other modules.

import { showDetail } from './detail.js';
import { showDevices } from './devices.js';
import { $, say, toggle } from './dom.js';
import { showEvents } from './events.js';
import { uptime } from './format.js';
import { showFunctions } from './functions.js';
import { Failure, follow, get, key } from './net.js';
import { change, nameInAddress, store, take, watch } from './store.js';

const SILENT_MS = 12_000; // the node says something every few seconds
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000];
const THEMES = ['auto', 'light', 'dark'];

// ---- the connection ------------------------------------------------------------------------

let hurry = () => {};

async function stayConnected() {
  for (let failed = 0; ; failed += 1) {
    try {
      const session = await get('api/session', AbortSignal.timeout(SILENT_MS));
      if (store.session.version && session.version !== store.session.version) location.reload(); // upgraded
      change({ session });
      $('sign-out').hidden = !key.get();
      await listen(() => { failed = 0; });
      failed = 0; // the node has ended it: it will be back at once
    } catch (error) {
      if (!(error instanceof Failure)) console.info(error); // such as a proxy's page in place of an answer
      if (error.status === 401 || (error.status === 403 && key.get())) {
        await askForKey(key.get() ? error.message : '');
        continue;
      }
      change({ connection: 'lost', trouble: error.message });
    }
    const wait = BACKOFF_MS[Math.min(failed, BACKOFF_MS.length - 1)] * (0.75 + Math.random() / 2);
    await new Promise((resolve) => {
      hurry = resolve;
      setTimeout(resolve, wait);
    });
  }
}

async function listen(came) {
  const abort = new AbortController();
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => abort.abort(), SILENT_MS);
  };
  try {
    heard();
    for await (const [name, data] of follow('api/live', abort.signal)) {
      heard();
      came();
      take(name, data);
    }
  } catch (error) {
    if (error.name !== 'AbortError') throw error;
    throw new Failure(0, 'the node has gone silent');
  } finally {
    clearTimeout(silence);
    abort.abort();
  }
}

function askForKey(text) {
  change({ connection: 'locked', trouble: '' });
  $('key-trouble').hidden = !text;
  say($('key-trouble'), `${text}.`);
  const dialog = $('key-dialog');
  $('key').value = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      const given = $('key').value.trim();
      $('key').value = '';
      if (given) key.set(given);
      resolve();
    }, { once: true });
  });
}

function showNode() {
  const { status, connection, trouble } = store;
  const words = {
    connecting: 'Connecting …',
    away: `The figures stand still: ${trouble}. Trying again.`,
    lost: `Not connected: ${trouble}. Trying again.`,
  }[connection];
  const banner = $('banner');
  banner.hidden = !words || (connection === 'connecting' && status);
  say(banner, words ?? '');
  toggle(document.body, 'stale', connection !== 'live');
  const node = status ? `${status.version}, ${status.state.toLowerCase()}, up ${uptime(status.uptime_s)}` : '';
  say($('node'), node);
  $('node').title = status ? `gRPC ${status.grpc_address || '–'}, HTTP ${status.http_address || '–'}, pid ${status.pid}` : '';
}

// ---- theme ---------------------------------------------------------------------------------

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem('gslice-theme', theme);
  const names = { auto: 'System', light: 'Light', dark: 'Dark' };
  $('theme').textContent = `\u25d0 ${names[theme]}`;
  $('theme').setAttribute('aria-label', `Theme: ${names[theme].toLowerCase()}`);
}

function nextTheme() {
  const now = THEMES.indexOf(document.documentElement.dataset.theme);
  setTheme(THEMES[(now + 1) % THEMES.length]);
}

// ---- keyboard ------------------------------------------------------------------------------

function isTyping(target) {
  return target.closest('input:not([type=range]), textarea, select, dialog') !== null;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const search = $('search');
  if (event.key === 'Escape' && !event.target.closest('dialog')) {
    if (document.activeElement === search && search.value) setSearch('');
    else if (isTyping(event.target)) event.target.blur();
    else if (nameInAddress()) leaveFunction();
    return;
  }
  if (isTyping(event.target)) return;
  if (event.key === '/') search.focus();
  else if (event.key === 't') nextTheme();
  else if (event.key === '?') $('help-dialog').showModal();
  else return;
  event.preventDefault();
}

function leaveFunction() {
  const name = nameInAddress();
  const focus = () => document.querySelector(`tr[data-function="${CSS.escape(name)}"] a.name`)?.focus();
  addEventListener('hashchange', focus, { once: true }); // after the one that shows the table
  location.hash = '#/';
}

function setSearch(text) {
  $('search').value = text;
  change({ search: text.trim() });
}

// ---- start ---------------------------------------------------------------------------------

setTheme(THEMES.includes(localStorage.getItem('gslice-theme')) ? localStorage.getItem('gslice-theme') : 'auto');
$('theme').addEventListener('click', nextTheme);
$('help').addEventListener('click', () => $('help-dialog').showModal());
$('sign-out').addEventListener('click', () => {
  key.forget();
  location.reload();
});
$('key-dialog').addEventListener('cancel', (event) => event.preventDefault());
$('search').addEventListener('input', () => setSearch($('search').value));
$('search').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' || event.key === 'ArrowDown') document.querySelector('.functions a.name')?.focus();
});
addEventListener('keydown', onKey);
addEventListener('online', () => hurry());
document.addEventListener('visibilitychange', () => { if (!document.hidden) hurry(); });
watch(showNode);
showDevices();
showFunctions();
showDetail();
showEvents();
stayConnected();

// The hands of a person at a browser: a headless Chromium that reaches nothing but this machine.
//
//     node driver.mjs CHROMIUM
//
// Reads one JSON object a line, does what it says, and answers with one line of JSON each. It ends when its standard
// input does, and the browser with it.
//
//     {"do": "open", "profile": P, "scripts": true}       a browser of its own: no cookies, nothing remembered
//     {"do": "visit", "profile": P, "url": U, ...}        goes there, and through the forms that it knows; see `visit`
//     {"do": "close", "profile": P}                       closes it, whatever it shows

import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // Pages of foreign servers ask for fonts and the like: a test must not wait for the internet.
  '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
];
/** The longest time that a page may take. */
const PAGE_WITHIN_MS = 30_000;
/** More forms than any sign-in has. */
const FORMS_MAX = 10;

const click = (selector) => async (page) => page.click(selector);

/** The forms that a person meets, and what each answer does with them; the first that is on the page is the one. */
const FORMS = [
  {
    name: 'device code',
    stands: 'form[id="op.deviceInputForm"]',
    fill: async (page, { user_code: code }) => page.fill('[name=user_code]', code),
    allow: click('button[form="op.deviceInputForm"]'),
  },
  {
    name: 'device confirmation',
    stands: 'form[id="op.deviceConfirmForm"]',
    allow: click('button[autofocus][form="op.deviceConfirmForm"]'),
    deny: click('button[name=abort]'),
  },
  {
    name: 'sign-in',
    stands: 'input[name=login]',
    fill: async (page, { account }) => {
      // Without an account of its own, the person takes whom the page proposes.
      if (account) {
        await page.fill('[name=login]', account);
      }
      await page.fill('[name=password]', 'any will do');
    },
    allow: click('button[type=submit]'),
  },
  {
    name: 'consent',
    stands: 'input[name=prompt][value=consent]',
    allow: click('button[type=submit]'),
    deny: click('a[href$="/abort"]'),
  },
  {
    name: 'sign-in at Django',
    stands: 'input[name=username]',
    fill: async (page, { account }) => {
      await page.fill('[name=username]', account);
      await page.fill('[name=password]', `the password of ${account}`);
    },
    allow: click('button[type=submit]'),
  },
  {
    name: 'consent of django-oauth-toolkit',
    stands: 'form[id=authorizationForm]',
    allow: click('input[type=submit][name=allow]'),
    deny: click('input[type=submit]:not([name])'),
  },
];

/** A profile of the browser, with one page. */
class Profile {
  static async open(browser, { scripts }) {
    const context = await browser.newContext({ javaScriptEnabled: scripts });
    context.setDefaultTimeout(PAGE_WITHIN_MS);
    const profile = new Profile(context, await context.newPage());
    await profile.#listen();
    return profile;
  }

  constructor(context, page) {
    this.context = context;
    this.page = page;
    this.seen = { visited: [], csp_violations: [], console_errors: [] };
    this.status = undefined;
  }

  async #listen() {
    const { page, seen } = this;
    page.on('request', (request) => {
      if (request.isNavigationRequest() && request.frame() === page.mainFrame()) {
        seen.visited.push(request.url());
      }
    });
    page.on('response', (response) => {
      if (response.request().isNavigationRequest() && response.frame() === page.mainFrame()) {
        this.status = response.status();
      }
    });
    page.on('console', (message) => {
      if (message.type() === 'error') {
        seen.console_errors.push({ url: message.location().url, text: message.text() });
      }
    });
    page.on('pageerror', (error) => seen.console_errors.push({ url: page.url(), text: String(error) }));
    this.devtools = await this.context.newCDPSession(page);
    // Unlike the event of the page, this also comes where scripts do not run.
    this.devtools.on('Audits.issueAdded', ({ issue }) => {
      const violation = issue.details.contentSecurityPolicyIssueDetails;
      if (violation) {
        seen.csp_violations.push({ url: page.url(), directive: violation.violatedDirective });
      }
    });
    await this.devtools.send('Audits.enable');
    this.devtools.on('Fetch.requestPaused', ({ requestId }) => this.#hold(requestId));
  }

  /** Answers a request that is to go nowhere. Playwright's own routes do not see what a redirect leads to. */
  async #hold(requestId) {
    const responseHeaders = [{ name: 'content-type', value: 'text/html' }];
    const body = Buffer.from('<!doctype html><title>held</title>').toString('base64');
    await this.devtools.send('Fetch.fulfillRequest', { requestId, responseCode: 200, responseHeaders, body });
  }

  /**
   * Goes to `url`, then through the forms: fills them in as `account`, with `user_code`, and gives each the `answer`
   * `allow` or `deny`; `leave` stops at the first form that could also be denied. What goes to an address that starts
   * with `hold` never leaves the browser.
   */
  async visit({ url, hold, answer, ...person }) {
    const patterns = hold ? [{ urlPattern: `${hold}*`, requestStage: 'Request' }] : [];
    await this.devtools.send(hold ? 'Fetch.enable' : 'Fetch.disable', hold ? { patterns } : undefined);
    this.status = undefined;
    for (const list of Object.values(this.seen)) {
      list.length = 0;
    }
    const failure = await this.#go(url, person, answer).then(() => undefined, (error) => error.message.split('\n')[0]);
    return this.#report(failure);
  }

  async #go(url, person, answer) {
    await this.page.goto(url);
    for (let count = 0; count < FORMS_MAX; count += 1) {
      const form = await this.#form();
      if (!form || (answer === 'leave' && form.deny)) {
        return;
      }
      await form.fill?.(this.page, person);
      const act = (answer === 'deny' && form.deny) || form.allow;
      await Promise.all([this.page.waitForNavigation(), act(this.page)]);
    }
    throw new Error('the forms did not end');
  }

  async #form() {
    for (const form of FORMS) {
      if (await this.page.locator(form.stands).count()) {
        return form;
      }
    }
    return undefined;
  }

  async #report(failure) {
    const { page } = this;
    const cookies = await this.context.cookies();
    return {
      url: page.url(),
      status: this.status,
      title: await page.title(),
      text: await page.locator('body').innerText(),
      // Their values are nobody's business.
      cookies: cookies.map(({ value: _, ...cookie }) => cookie),
      ...this.seen,
      failure,
    };
  }

  async close() {
    await this.context.close();
  }
}

const browser = await chromium.launch({ executablePath: process.argv[2], args: FLAGS });
const profiles = new Map();

const VERBS = {
  async open(command) {
    profiles.set(command.profile, await Profile.open(browser, command));
    return {};
  },
  visit: (command) => profiles.get(command.profile).visit(command),
  async close({ profile }) {
    await profiles.get(profile).close();
    profiles.delete(profile);
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await VERBS[command.do](command))}\n`);
}
await browser.close();

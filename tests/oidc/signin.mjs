// Signs people in at the provider by the authorization code flow with PKCE, over plain HTTP requests, as a browser and
// an application would: authorize, log in, consent, take the code, exchange it.
//
// Reads the line that `server.mjs` printed from its first argument, and prints a line for each connection:
// `{"name": ..., "provider": ..., "token": {...}}`, as `tokenkeep import --ndjson` takes them.

import { createHash, randomBytes } from 'node:crypto';
import { parseArgs } from 'node:util';

const { values: options, positionals: [described] } = parseArgs({
  allowPositionals: true,
  options: {
    count: { type: 'string', default: '1' },
    prefix: { type: 'string', default: 'c' },
    provider: { type: 'string', default: 'oidc' },
  },
});
const server = JSON.parse(described);

/** More redirects than any sign-in needs. */
const REDIRECTS_MAX = 20;

/** The cookies of one browser. */
class Cookies {
  #values = new Map();

  header() {
    return [...this.#values].map(([name, value]) => `${name}=${value}`).join('; ');
  }

  keep(response) {
    for (const line of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      this.#values.set(name, value);
    }
  }
}

const random = () => randomBytes(32).toString('base64url');

/** Follows redirects from the authorization request until one leads back to the application; gives that address. */
async function authorize(url, cookies) {
  let next = url;
  for (let count = 0; count < REDIRECTS_MAX; count += 1) {
    const response = await fetch(next, { redirect: 'manual', headers: { cookie: cookies.header() } });
    cookies.keep(response);
    const place = response.headers.get('location');
    if (!place) {
      throw new Error(`${next} answered ${response.status}: ${await response.text()}`);
    }
    next = new URL(place, next);
    if (next.href.startsWith(server.redirect_uri)) {
      return next;
    }
  }
  throw new Error('the sign-in did not end');
}

async function exchange(code, verifier) {
  const credentials = Buffer.from(`${server.client_id}:${server.client_secret}`).toString('base64');
  const body = { grant_type: 'authorization_code', code, code_verifier: verifier, redirect_uri: server.redirect_uri };
  const response = await fetch(server.token_url, {
    method: 'POST',
    headers: { authorization: `Basic ${credentials}` },
    body: new URLSearchParams(body),
  });
  const token = await response.json();
  if (!token.refresh_token) {
    throw new Error(`no refresh token: ${JSON.stringify(token)}`);
  }
  return { ...token, expires_at: Math.floor(Date.now() / 1000) + token.expires_in };
}

async function signIn(account) {
  const [verifier, state] = [random(), random()];
  const url = new URL('/auth', server.issuer);
  url.search = new URLSearchParams({
    client_id: server.client_id,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
    login_hint: account,
    prompt: 'consent',
    redirect_uri: server.redirect_uri,
    response_type: 'code',
    scope: 'openid offline_access',
    state,
  });
  const answer = await authorize(url, new Cookies());
  if (answer.searchParams.get('state') !== state || !answer.searchParams.has('code')) {
    throw new Error(`no code: ${answer.search}`);
  }
  return exchange(answer.searchParams.get('code'), verifier);
}

for (let nth = 0; nth < Number.parseInt(options.count, 10); nth += 1) {
  const name = `${options.prefix}${nth}`;
  process.stdout.write(`${JSON.stringify({ name, provider: options.provider, token: await signIn(name) })}\n`);
}

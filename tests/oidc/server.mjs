// A certified OpenID provider (oidc-provider) on a free loopback port: strict rotation, short access tokens.
//
// Prints one line of JSON, `{"issuer": ..., "clients": ...}`, when it serves. It ends when its standard input does, so
// that it cannot outlive the test that started it. `GET /control` tells what happened at the token endpoint, and which
// refresh tokens were used twice.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { Provider } from 'oidc-provider';
import { Store } from './store.mjs';

const { values: options } = parseArgs({
  options: {
    'access-ttl': { type: 'string', default: '20' },
    'refresh-ttl': { type: 'string', default: '3600' },
    'device-ttl': { type: 'string', default: '600' },
    // Shows the pages that come with oidc-provider; else every request is granted at once, to whom `login_hint` names.
    pages: { type: 'boolean', default: false },
    // Where the web client is: its exact redirect URI.
    'web-redirect': { type: 'string', default: 'http://localhost:7878/oauth/callback' },
    // The public key of the client that has one, as JWK.
    'client-jwk': { type: 'string' },
  },
});

const SECRET = 'a-secret-of-the-tests';
// Registered without a port: a native application listens on any (RFC 8252 section 7.3).
const LOOPBACK = 'http://127.0.0.1/callback';
const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
const USED_TWICE = 'refresh token already used';

/** The clients by their kind. */
const CLIENTS = {
  confidential: { client_id: 'tokenkeep-tests', client_secret: SECRET },
  public: { client_id: 'tokenkeep-public' },
  web: { client_id: 'tokenkeep-web', client_secret: SECRET },
  machine: { client_id: 'tokenkeep-machine', client_secret: SECRET },
  ...(options['client-jwk'] && { key: { client_id: 'tokenkeep-key' } }),
};

/** What happened at the token endpoint. `errors` counts every refusal by its true reason. */
const seen = {
  codes: 0,
  devices: 0,
  client_credentials: 0,
  refreshes: 0,
  reuses: 0,
  errors: {},
  pending_polls: 0,
  revoked_grants: 0,
  refreshes_by_account: {},
};

function signingKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' };
}

/** A client of people, who come back to it by a redirect. */
function redirected(kind, redirectUri, authentication) {
  return {
    ...CLIENTS[kind],
    redirect_uris: [redirectUri],
    response_types: ['code'],
    grant_types: ['authorization_code', 'refresh_token'],
    token_endpoint_auth_method: authentication,
    id_token_signed_response_alg: 'ES256',
  };
}

function clients() {
  const native = { application_type: 'native' };
  const registered = [
    { ...redirected('confidential', LOOPBACK, 'client_secret_basic'), ...native },
    { ...redirected('web', options['web-redirect'], 'client_secret_post'), application_type: 'web' },
    {
      ...redirected('public', LOOPBACK, 'none'),
      ...native,
      grant_types: ['authorization_code', 'refresh_token', DEVICE],
    },
    {
      ...CLIENTS.machine,
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
      token_endpoint_auth_method: 'client_secret_basic',
      id_token_signed_response_alg: 'ES256',
    },
  ];
  if (CLIENTS.key) {
    registered.push({
      ...redirected('key', LOOPBACK, 'private_key_jwt'),
      ...native,
      jwks: { keys: [JSON.parse(options['client-jwk'])] },
    });
  }
  return registered;
}

function configuration() {
  const seconds = (name) => Number.parseInt(options[name], 10);
  const hour = 3600;
  return {
    adapter: Store,
    clients: clients(),
    cookies: { keys: ['nobody needs to guess this'] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: options.pages },
      deviceFlow: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
    },
    findAccount: async (_ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
    ...(!options.pages && { interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` } }),
    issueRefreshToken: async () => true,
    jwks: { keys: [signingKey()] },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access'],
    ttl: {
      AccessToken: seconds('access-ttl'),
      AuthorizationCode: 60,
      ClientCredentials: seconds('access-ttl'),
      DeviceCode: seconds('device-ttl'),
      Grant: hour,
      IdToken: hour,
      Interaction: hour,
      RefreshToken: seconds('refresh-ttl'),
      Session: hour,
    },
  };
}

/** Says yes to whatever the person would be asked: signs in whom `login_hint` names, and consents. */
async function approve(provider, request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: params.login_hint } });
  }
  const grant = grantId
    ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const consent = { grantId: await grant.save() };
  return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

const COUNTS = {
  authorization_code: 'codes',
  client_credentials: 'client_credentials',
  refresh_token: 'refreshes',
  [DEVICE]: 'devices',
};

function watch(provider) {
  provider.on('grant.success', (ctx) => {
    const { grant_type: grantType } = ctx.oidc.params;
    seen[COUNTS[grantType]] += 1;
    if (grantType === 'refresh_token') {
      const account = ctx.oidc.entities.Account.accountId;
      seen.refreshes_by_account[account] = (seen.refreshes_by_account[account] ?? 0) + 1;
    }
  });
  provider.on('grant.error', (_ctx, error) => {
    if (error.error === 'authorization_pending') {
      // A device that waits for its person asks again and again: no refusal.
      seen.pending_polls += 1;
      return;
    }
    const reason = error.error_detail ?? error.error_description ?? error.message;
    seen.errors[reason] = (seen.errors[reason] ?? 0) + 1;
    seen.reuses += Number(reason === USED_TWICE);
  });
  provider.on('grant.revoked', () => {
    seen.revoked_grants += 1;
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
}

function serve(server, provider) {
  const answer = provider.callback();
  server.on('request', (request, response) => {
    if (request.method === 'GET' && request.url === '/control') {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(seen));
    } else if (!options.pages && request.url.startsWith('/interaction/')) {
      approve(provider, request, response).catch((error) => {
        console.error(error);
        response.writeHead(500).end();
      });
    } else {
      answer(request, response);
    }
  });
}

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration());
  watch(provider);
  serve(server, provider);
  process.stdout.write(`${JSON.stringify({
    issuer,
    token_url: `${issuer}/token`,
    ...CLIENTS.confidential,
    redirect_uri: LOOPBACK,
    clients: CLIENTS,
  })}\n`);
});
process.stdin.on('end', () => process.exit(0)).resume();

// A certified OpenID provider (oidc-provider) on a free loopback port: strict rotation, short access tokens.
//
// Prints one line of JSON, `{"issuer": ...}`, when it serves. It ends when its standard input does, so that it cannot
// outlive the test that started it. `GET /control` tells what happened at the token endpoint, and which refresh tokens
// were used twice.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { Provider } from 'oidc-provider';
import { Store } from './store.mjs';

const { values: options } = parseArgs({
  options: {
    'access-ttl': { type: 'string', default: '20' },
    'refresh-ttl': { type: 'string', default: '3600' },
  },
});

const CLIENT = { id: 'tokenkeep-tests', secret: 'a-secret-of-the-tests', redirectUri: 'http://127.0.0.1/callback' };
const USED_TWICE = 'refresh token already used';

/** What happened at the token endpoint. `errors` counts every refusal by its true reason. */
const seen = { codes: 0, refreshes: 0, reuses: 0, errors: {}, revoked_grants: 0, refreshes_by_account: {} };

function signingKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' };
}

function configuration() {
  const seconds = (name) => Number.parseInt(options[name], 10);
  const hour = 3600;
  return {
    adapter: Store,
    clients: [{
      client_id: CLIENT.id,
      client_secret: CLIENT.secret,
      redirect_uris: [CLIENT.redirectUri],
      application_type: 'native',
      response_types: ['code'],
      grant_types: ['authorization_code', 'refresh_token'],
      token_endpoint_auth_method: 'client_secret_basic',
      id_token_signed_response_alg: 'ES256',
    }],
    cookies: { keys: ['nobody needs to guess this'] },
    features: {
      devInteractions: { enabled: false },
      introspection: { enabled: true },
    },
    findAccount: async (_ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    issueRefreshToken: async () => true,
    jwks: { keys: [signingKey()] },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    scopes: ['openid', 'offline_access'],
    ttl: {
      AccessToken: seconds('access-ttl'),
      AuthorizationCode: 60,
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

function watch(provider) {
  provider.on('grant.success', (ctx) => {
    if (ctx.oidc.params.grant_type === 'authorization_code') {
      seen.codes += 1;
      return;
    }
    const account = ctx.oidc.entities.Account.accountId;
    seen.refreshes += 1;
    seen.refreshes_by_account[account] = (seen.refreshes_by_account[account] ?? 0) + 1;
  });
  provider.on('grant.error', (_ctx, error) => {
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
    } else if (request.url.startsWith('/interaction/')) {
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
    introspection_url: `${issuer}/token/introspection`,
    client_id: CLIENT.id,
    client_secret: CLIENT.secret,
    redirect_uri: CLIENT.redirectUri,
  })}\n`);
});
process.stdin.on('end', () => process.exit(0)).resume();

// oauth2-mock-server on a free loopback port: it validates nothing, and answers as the test wishes.
//
// Prints one line of JSON, `{"address": ..., "token_url": ...}`, when it serves. It ends when its standard input does, so
// that it cannot outlive the test that started it.
//
// `POST /control` takes `{REFRESH_TOKEN: WISH}`: how the request that brings this refresh token is answered. A wish says
// what differs from the server's own answer:
//   status, headers   of the answer
//   set, remove       fields of its JSON body
//   raw, encoding     another body altogether
// In `set` and `raw`, `%access_token%` (a JWT) and `%refresh_token%` stand for those of the server's own answer, and
// `%opaque%` for an access token that tells nothing. `GET /control` tells how often each refresh token was brought.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { Events, OAuth2Server } from 'oauth2-mock-server';

const wishes = new Map();
const requests = {};

function filled(text, body) {
  return text
    .replaceAll('%access_token%', body.access_token)
    .replaceAll('%refresh_token%', body.refresh_token)
    .replaceAll('%opaque%', randomUUID());
}

/** The hook: changes the answer before it is sent. */
function answer(response, request) {
  const token = request.body.refresh_token;
  requests[token] = (requests[token] ?? 0) + 1;
  const wish = wishes.get(token);
  if (wish === undefined) return;
  const own = response.body;
  response.statusCode = wish.status ?? 200;
  response.body = { ...own, ...JSON.parse(filled(JSON.stringify(wish.set ?? {}), own)) };
  for (const name of wish.remove ?? []) delete response.body[name];
  request.res.set(wish.headers ?? {});
  if (wish.raw !== undefined) {
    // The server would send JSON. Node's own `end` adds nothing to the bytes or to the headers.
    const bytes = Buffer.from(filled(wish.raw, own), wish.encoding ?? 'utf8');
    request.res.json = () => request.res.end(bytes);
  }
}

async function control(request, response) {
  if (request.method === 'POST') {
    const pieces = await request.toArray();
    for (const [token, wish] of Object.entries(JSON.parse(Buffer.concat(pieces)))) wishes.set(token, wish);
  }
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(requests));
}

const provider = new OAuth2Server();
await provider.issuer.keys.generate('RS256');
provider.service.on(Events.BeforeResponse, answer);
const server = createServer((request, response) => {
  if (request.url === '/control') {
    control(request, response).catch((error) => response.writeHead(400).end(String(error)));
  } else {
    provider.service.requestHandler(request, response);
  }
});
server.listen(0, '127.0.0.1', () => {
  const address = `127.0.0.1:${server.address().port}`;
  provider.issuer.url = `http://${address}`;
  process.stdout.write(`${JSON.stringify({ address, token_url: `http://${address}/token` })}\n`);
});
process.stdin.on('end', () => process.exit(0)).resume();

// A server that asks for the client's certificate as Azure Key Vault does: by TLS 1.2
// renegotiation, once it has seen a request that says that its token is bound.
// usage: node vault.mjs DIR, with server.pem, server.key and root.pem in DIR
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import https from 'node:https';

const file = (name) => readFileSync(`${process.argv[2]}/${name}`);
let renegotiations = 0;

function refuse(response, code) {
  response.writeHead(401, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: { code: 'Unauthorized', message: `[${code}] Error validating token` } }));
}

function answer(request, response) {
  const certificate = request.socket.getPeerCertificate(true);
  if (!certificate || !certificate.raw) {
    return refuse(response, 'MissingClientCertificate');
  }
  const thumbprint = createHash('sha256').update(certificate.raw).digest('base64url');
  if (request.headers.authorization !== `mtls_pop bound-to.${thumbprint}`) {
    return refuse(response, 'MtlsCnfClaimRequestDataValidationFailed');
  }
  response.end(`${request.socket.getProtocol()} ${thumbprint} ${renegotiations}`);
}

https.createServer({
  cert: file('server.pem'), key: file('server.key'), ca: file('root.pem'), maxVersion: 'TLSv1.2', requestCert: false,
}, (request, response) => {
  const known = request.socket.getPeerCertificate(true);
  if (request.headers['x-ms-tokenboundauth'] !== 'true' || (known && known.raw)) {
    return answer(request, response);
  }
  renegotiations++;
  request.socket.renegotiate({ requestCert: true, rejectUnauthorized: false }, (err) => {
    if (err) {
      return request.socket.destroy();
    }
    answer(request, response);
  });
}).listen(0, '127.0.0.1', function () {
  console.log(`ACCEPT 127.0.0.1:${this.address().port}`);
});

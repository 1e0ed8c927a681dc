// Package entra is the simulated token service of one Microsoft Entra tenant, for confidential
// clients.
//
// # Faces
//
// One [Server] has two faces, which share clients, keys and journal. MTLS asks for a client
// certificate in the handshake; it takes any, or none, so that a client which is refused learns why
// from an OAuth error with an AADSTS code, and not from an alert. The handshake proves possession
// of the key; sessions are not resumed, so that every connection proves it again. Login asks for
// none.
// # Which client gets which token
//
//	client            face   TLS certificate      client_assertion              token_type  token
//	managed identity  mtls   binding certificate  -                             bearer      Bearer
//	managed identity  mtls   binding certificate  -                             mtls_pop    bound
//	application       login  -                    jwt-bearer, registered key    -           Bearer
//	application       mtls   a trusted one        jwt-bearer, its key           -           Bearer
//	application       mtls   a trusted one        -                             -           Bearer*
//	application       mtls   a trusted one        -                             mtls_pop    bound
//	application       login  -                    jwt-bearer, trusted token     -           Bearer
//	application       mtls   that of the token    jwt-pop, trusted bound token  -           Bearer
//	application       mtls   that of the token    jwt-pop, trusted bound token  mtls_pop    bound
//
// * If the application's policy allows it.
//
// Everything else is refused. A bound token has the claim cnf of RFC 8705. A trusted token is one
// for TokenExchange, or of an external issuer, that matches a federated credential of the
// application in issuer, subject and audience. A trusted certificate is one that the application
// has by subject and issuer; over mutual TLS, one that was merely uploaded gets AADSTS392189,
// unless the application's policy says otherwise. Certificates count within notAfter and
// token_not_after, unless revoked or rejected.
//
// # As strict as Entra, and no more
//
// Requests as Microsoft's own clients send them are accepted: a query and a slash at the end of the
// token endpoint's URL, unknown fields, times as strings, an assertion that is sent again until it
// expires, and one whose audience is another name of the tenant's token endpoint. A clock may be
// five minutes off. Each refusal in the code names its source.
//
// # Assumptions
//
// Entra does not document which code it gives in every case. Where it does not, the simulator
// answers with a code to which the documented reaction is the right one: 7000277 for a certificate
// of another issuer or purpose, 500181 for every contradiction between assertion and connection,
// 50027 for an assertion that is malformed. That 392189 comes with 400 and invalid_request is
// assumed, too, as is that login refuses an assertion for mutual TLS (700023). Nor does it document
// the content of xms_tb. Access tokens imitate version 1.0 tokens with the simulator's own issuer
// and keys, those for TokenExchange version 2.0 tokens; /{tenant}/discovery/v2.0/keys has the keys.
//
// # Sources
//
// RFC 6749 (4.4, 5.1, 5.2), RFC 7515, RFC 7521, RFC 7523, RFC 8705 (2, 3); OpenID Connect Discovery
// 1.0; MSAL.NET 4.88 (managed identity with WithRequestOverMtls, SendCertificateOverMtls, bound
// client assertions); MSAL Go 1.9 and 1.10; MSAL for JavaScript (msal-node 7); the integration
// tests of MSAL.NET (MtlsTransportUserFlowTests) and MSAL Go (bearer_mtls_integration_test) for
// 392189 and 51000; Microsoft's published AADSTS codes.
package entra

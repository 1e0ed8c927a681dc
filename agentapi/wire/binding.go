package wire

import "time"

// The parts of the paths under which an identity's binding is found: GET
// /v1/binding/{identity} and POST /v1/binding/{identity}/sign. The name of an identity is one
// segment of the path as it is, since it has nothing that would have to be encoded.
const (
	PathBinding     = "/v1/binding/{identity}"
	PathBindingSign = "/v1/binding/{identity}/sign"

	// ParamThumbprint, a query parameter of [PathBinding], asks for the certificate with this
	// x5t#S256, such as that of a token, where an identity has several; else the answer is
	// [CodeBindingChanged].
	ParamThumbprint = "thumbprint"

	// PathParamIdentity stands for the name of an identity in a path.
	PathParamIdentity = "{identity}"
)

// BoundCertificate is the body of GET [PathBinding]: the certificate that tokens of type mtls_pop
// of an identity are bound to.
type BoundCertificate struct {
	Identity   string `json:"identity"`
	Credential string `json:"credential"` // name of the entry that presents it
	// Chain is the certificates in DER, in base64 in JSON, the leaf first, as they are to be
	// presented: a binding certificate is presented without its issuers.
	Chain      [][]byte  `json:"chain"`
	Thumbprint string    `json:"thumbprint"` // x5t#S256 of the leaf, base64url (RFC 8705, 3.1)
	Strength   string    `json:"strength"`   // one of [Strengths]
	Expires    time.Time `json:"expires"`    // when the certificate ceases to be of use; it is replaced before
	// Algorithms are the TLS signature schemes that the key can sign by, the best first, as in
	// "rsa_pss_rsae_sha256" (RFC 8446, 4.2.3).
	Algorithms []string `json:"algorithms"`
}

// SignRequest is the body of POST [PathBindingSign], a JSON object of at most [MaxSignBytes].
type SignRequest struct {
	// Thumbprint names the certificate that the TLS client presents. If the identity has another
	// one by now, the answer is [CodeBindingChanged].
	Thumbprint string `json:"thumbprint"`
	// Scheme is the TLS signature scheme, as in [BoundCertificate.Algorithms].
	Scheme string `json:"scheme"`
	// Message is what the TLS client signs in CertificateVerify, in base64 in JSON; not a digest of
	// it. In TLS 1.3, that is the 64 spaces and what follows (RFC 8446, 4.4.3); in TLS 1.2, all
	// handshake messages from ClientHello to ClientKeyExchange (RFC 5246, 7.4.8).
	Message []byte `json:"message"`
}

// MaxSignBytes limits a request for a signature.
const MaxSignBytes = 192 << 10

// SignResponse is the body of a successful POST [PathBindingSign].
type SignResponse struct {
	Signature []byte `json:"signature"` // as it goes into CertificateVerify; in base64 in JSON
}

package binding

// The certificate request is an inside that must match the issuer byte for byte.
var (
	NewCertificateRequest = newCertificateRequest
	RequestInfo           = requestInfo
	ParseTokenNotAfter    = parseTokenNotAfter
)

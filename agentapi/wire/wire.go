package wire

// DefaultSocket is where the agent listens unless configured otherwise.
const DefaultSocket = "/run/keyagent/agent.sock"

// EnvSocket is the environment variable that names another socket to programs that call the agent.
const EnvSocket = "KEYAGENT_SOCKET"

// The paths of the API. They are matched byte for byte, except that those of IMDS and App Service
// may carry duplicate slashes and a trailing one, because SDKs send them.
const (
	PathToken        = "/v1/token"
	PathIdentities   = "/v1/identities"
	PathCapabilities = "/v1/capabilities"
	PathStatus       = "/v1/status"
	PathMetrics      = "/metrics"
	PathHealth       = "/healthz"
	PathReady        = "/readyz"
	PathEndpoint     = "/v1/endpoint"
	PathIMDSToken    = "/metadata/identity/oauth2/token"
	// PathAppServiceToken is on loopback only.
	PathAppServiceToken = "/msi/token"

	// PathBridge is followed by an identity, a slash, a host with or without port, and path and
	// query of a request that the agent makes there.
	PathBridge = "/bridge/"
)

// Query parameters of [PathToken].
const (
	ParamIdentity = "identity" // name of a configured identity; may be left out if only one is granted
	ParamResource = "resource" // resource URI; exactly one of resource and scope
	ParamScope    = "scope"    // resource URI + "/.default"
	ParamType     = "type"     // token type; default TypeBearer

	// ParamClaims is a claims challenge of the resource: a JSON object, as it is after decoding the
	// base64 of WWW-Authenticate, of at most [MaxClaimsBytes].
	ParamClaims = "claims"
	// ParamCapabilities is what the program that uses the token can do, separated by commas:
	// CapabilityCP1.
	ParamCapabilities = "capabilities"
	// ParamForceRefresh, "true" or "false", skips the agent's cache. It takes a rule that allows
	// it.
	ParamForceRefresh = "force_refresh"
)

// Values of [ParamType].
const (
	TypeBearer = "bearer"   // the default
	TypePoP    = "mtls_pop" // bound to a certificate (RFC 8705, 3), and of use only with that certificate's key
)

// CapabilityCP1 in [ParamCapabilities] says that the program handles claims challenges. Such tokens
// live longer, and can be revoked meanwhile.
const CapabilityCP1 = "cp1"

// MaxClaimsBytes limits a claims challenge.
const MaxClaimsBytes = 8 << 10

// Query parameter of [PathEndpoint], besides ParamIdentity, and its values.
const (
	ParamLifetime   = "lifetime" // with what the secret ends
	LifetimeProcess = "process"  // the process that asks for it; the default
	LifetimeUnit    = "unit"     // the systemd unit of that process
)

// Query parameters of [PathIMDSToken] and [PathAppServiceToken]; at most one of the identity
// selectors.
const (
	ParamAPIVersion = "api-version"
	ParamClientID   = "client_id"
	ParamObjectID   = "object_id"
	ParamResourceID = "msi_res_id"
	// ParamResourceIDAlias is the App Service protocol's name of ParamResourceID. Callers mix the
	// two up; ignoring the wrong one would silently hand out a token of another identity.
	ParamResourceIDAlias = "mi_res_id"
	// ParamPrincipalID is another name of ParamObjectID, and ParamClientIDOld that of ParamClientID
	// in [AppServiceAPIVersionOld].
	ParamPrincipalID = "principal_id"
	ParamClientIDOld = "clientid"
	// ParamClientCapabilities is what the program can do, separated by commas: CapabilityCP1
	// counts, others are not looked at.
	ParamClientCapabilities = "xms_cc"
)

// IMDSAPIVersion is the oldest value of [ParamAPIVersion] that is taken. Later dates mean the same
// here, as they do to Azure's service: programs send whichever they were written for.
const IMDSAPIVersion = "2018-02-01"

// Values of [ParamAPIVersion] at [PathAppServiceToken].
const (
	AppServiceAPIVersion    = "2019-08-01" // the secret is in HeaderIdentity
	AppServiceAPIVersionOld = "2017-09-01" // the secret is in HeaderSecret
)

// Headers with the secret of the program, at [PathAppServiceToken].
const (
	HeaderIdentity = "X-Identity-Header"
	HeaderSecret   = "Secret"
)

// HeaderMetadata must be "true" on requests to [PathIMDSToken]. A program that is tricked into
// fetching a URL cannot set it.
const HeaderMetadata = "Metadata"

// Headers that name a request, in the form in which net/http keeps them. Azure's SDKs log both.
const (
	// HeaderRequestID is in every answer: the name of the request in the agent's audit and log.
	HeaderRequestID = "X-Ms-Request-Id"
	// HeaderClientRequestID is what the caller calls its request. The audit has it, if it has up to
	// 64 characters, which are letters, digits, "-", ".", "_", "{" and "}".
	HeaderClientRequestID = "X-Ms-Client-Request-Id"
)

// HeaderResource of a request to [PathBridge] is the resource of the token that is used. It may be
// left out if rules give the caller one resource only at the host.
const HeaderResource = "Keyagent-Resource"

// HeaderError of an answer says that the agent answers, and not the resource behind [PathBridge]:
// it is the code of the problem.
const HeaderError = "Keyagent-Error"

// HeaderBound is set on requests to resources that take tokens bound to a certificate.
const HeaderBound = "X-Ms-Tokenboundauth"

// Media types of the replies.
const (
	ContentTypeJSON    = "application/json"
	ContentTypeMetrics = "text/plain; version=0.0.4; charset=utf-8" // of [PathMetrics]
	ContentTypeProblem = "application/problem+json"
)

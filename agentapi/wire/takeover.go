package wire

// The paths of IMDS that the agent can pass on to users whose traffic to 169.254.169.254 it takes
// over, besides [PathIMDSToken], which it answers itself. There they are answered with any path
// below PathIMDSInstance that IMDS documents.
const (
	PathIMDSInstance        = "/metadata/instance"
	PathIMDSAttested        = "/metadata/attested/document"
	PathIMDSScheduledEvents = "/metadata/scheduledevents"
)

// Names of the parts of IMDS that are passed on.
const (
	PassInstance        = "instance"
	PassAttested        = "attested"
	PassScheduledEvents = "scheduledevents"
)

// PathTakeover is answered where the agent has taken 169.254.169.254 over. IMDS has no such path.
const PathTakeover = "/v1/takeover"

// Takeover is the body of [PathTakeover].
type Takeover struct {
	Address string   `json:"takeover"` // that is taken over
	Passes  []string `json:"passes"`   // names of the parts of IMDS that are passed on
}

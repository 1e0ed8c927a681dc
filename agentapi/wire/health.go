package wire

// Health is the body of a 200 of [PathHealth] and [PathReady].
type Health struct {
	Status string `json:"status"`
}

// Values of [Health].
const (
	HealthOK    = "ok"    // the process answers
	HealthReady = "ready" // as [Status] has it
)

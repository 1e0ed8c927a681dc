package wire

// Forms in which the process behind a Unix socket is known, from the strongest to the weakest.
// Users and groups are known in the same way with each of them.
const (
	ProcessByPidfd        = "pidfd"          // held; the kernel says its cgroup
	ProcessByPidfdAndProc = "pidfd-and-proc" // held; its cgroup is read in /proc
	ProcessByNumber       = "number"         // another process of the same user may have it by now
	ProcessUnknown        = "none"
)

// CallerIdentity says how certainly an agent knows who calls it, as far as the machine decides it.
type CallerIdentity struct {
	// Required is caller_identity of the configuration: "available" or "strict".
	Required string `json:"required"`
	// Process is the form in which processes are known, one of the constants above. Reason says why
	// it is not a better one; empty if there is none.
	Process string `json:"process"`
	Reason  string `json:"reason,omitempty"`
	// Units says whether callers are known by their systemd unit, and Loopback whether they are
	// known over TCP.
	Units    CallerProof `json:"units"`
	Loopback CallerProof `json:"loopback"`
}

// CallerProof says whether the agent can know something of its callers.
type CallerProof struct {
	Available bool   `json:"available"`
	Reason    string `json:"reason,omitempty"` // why not; empty if it is available
}

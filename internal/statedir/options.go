package statedir

import (
	"log/slog"
	"time"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm"
)

// Options are what the caller gives besides the configuration.
type Options struct {
	Logger *slog.Logger     // nil means no log
	Now    func() time.Time // nil means time.Now

	// Waits lists the operations that are being waited for, so that other parts of the process can
	// show them; nil: only the log has them.
	Waits *waiting.Board
	// TPM is told what the TPM is used for; nil: nobody is.
	TPM tpm.Observer

	// Words are the program's, for what it reports; nil: commands are named by what they do.
	Words advice.Words

	// LookOnly keeps it from making a state directory: made by another user than the agent's, it
	// would keep the agent out.
	LookOnly bool
}

// WithDefaults returns the options with defaults for those left out.
func (o Options) WithDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Waits == nil {
		o.Waits = waiting.New(waiting.Config{Logger: o.Logger, Now: o.Now})
	}
	return o
}

// Say words advice for a report.
func (o Options) Say(format string, args ...any) string {
	return advice.New(format, args...).Text(o.Words)
}

package daemon

import (
	"context"
	"errors"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/signer"
)

// RotateBindingKey makes another binding key, gets a certificate for it, proves both with the server that they are for, and switches
// to them.
//
// BUG(rotation): it does not do so yet.
func RotateBindingKey(context.Context, *config.Config, Options) (signer.Entry, error) {
	return signer.Entry{}, hint(errors.New("the agent's own key cannot be rotated yet"),
		"to have another one, stop the agent, keyagent key delete %s --force, and start the agent", BindingKeyName)
}

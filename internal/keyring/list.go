package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// listTimeout bounds what a list waits for a TPM that may not answer at all.
const listTimeout = 10 * time.Second

// List is [Keyring.Show] of all keys, which needs no TPM: what the files say of the keys is told
// also where the TPM cannot be reached, or does not answer within ten seconds. Untested is why the
// keys were not tried then; nil if they were.
func (k *Keyring) List(ctx context.Context) (reports []KeyReport, untested, err error) {
	looking, cancel := context.WithTimeout(ctx, listTimeout)
	_, untested = k.on(looking)
	cancel()
	late := errors.Is(untested, context.DeadlineExceeded) && ctx.Err() == nil
	if !late && !errors.Is(untested, tpm.ErrUnavailable) || ctx.Err() != nil {
		reports, err = k.Show(ctx, "", AuthSource{}) // its error is that of the TPM, if there is one
		return reports, nil, err
	}
	names, err := k.list("")
	if err != nil {
		return nil, nil, err
	}
	reports = []KeyReport{}
	for _, name := range names {
		generations, err := k.store.Generations(name)
		if err != nil { // the others may be in order
			r := KeyReport{Name: name}
			k.fail(&r, statedir.Explain(err, name))
			reports = append(reports, r)
			continue
		}
		for _, e := range generations {
			reports = append(reports, k.described(e))
		}
	}
	return reports, untested, nil
}

// described is what the files say of a generation.
func (k *Keyring) described(e keystore.Entry) KeyReport {
	r := k.begin(e)
	file, err := k.store.ReadKeyFile(e)
	if err == nil {
		err = r.describe(file)
	}
	if err != nil {
		k.fail(&r, err)
		return r
	}
	r.warn("it was not tested: the TPM does not answer")
	k.addCertificate(&r, e, file)
	return r
}

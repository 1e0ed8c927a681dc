package keyring

import (
	"bytes"
	"context"
	"os"

	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/engine"
	"github.com/keyagent/keyagent/internal/inputfile"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/statefile"
)

// Evidence makes attestation evidence of the current generation of a key, or of the one that an
// identity proves itself with; "" and "" for the binding key. No rule decides who may do this: a
// user that can use the TPM and read the state directory can make evidence by other means, too.
func (k *Keyring) Evidence(ctx context.Context, identity string, req engine.EvidenceRequest, source AuthSource) ([]byte, error) {
	if err := k.nameKey(identity, &req.Key); err != nil {
		return nil, err
	}
	if req.Key == statedir.BindingKeyName && k.cfg.BindingKey.InsecureSoftware {
		return nil, advice.To(requestf("the configuration keeps key %q in software, and nothing vouches for it", req.Key),
			"remove binding_key.insecure_software from the configuration")
	}
	e, err := k.generation(req.Key, false)
	if err != nil {
		return nil, err
	}
	key, err := k.open(ctx, e, source)
	if err != nil {
		return nil, err
	}
	defer key.Close()
	bundle, err := engine.CollectAlone(ctx, k.cfg, k.tpm, key.TPMKey(), req, engine.Options{
		Logger: k.opts.Logger, Now: k.opts.Now, Waits: k.opts.Waits, Words: k.opts.Words,
	})
	return bundle, statedir.Explain(err, req.Key)
}

// EvidenceKey names the key that evidence is about, if [Keyring.Evidence] is asked the same.
func (k *Keyring) EvidenceKey(identity, key string) (string, error) {
	err := k.nameKey(identity, &key)
	return key, err
}

// nameKey puts in the key that is meant.
func (k *Keyring) nameKey(identity string, key *string) error {
	switch keys := engine.KeysOf(k.cfg.Identities)[identity]; {
	case identity != "" && *key != "":
		return requestf("identity and key exclude each other")
	case identity != "" && len(keys) == 0:
		return requestf("the configuration has no identity %q, or one that proves itself without a key of this machine", identity)
	case identity != "":
		*key = keys[0]
	case *key == "":
		*key = statedir.BindingKeyName
	}
	return nil
}

// WriteEvidence writes a bundle, for its owner alone: it is no secret, but names the machine. A
// file that holds a key is not overwritten.
func WriteEvidence(path string, bundle []byte) error {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() <= maxForeignBytes {
		if text, err := inputfile.Read(path, maxForeignBytes); err != nil || bytes.Contains(text, []byte("PRIVATE KEY-----")) {
			return requestf("%s holds a key, or cannot be read, and is not overwritten: choose another file", path)
		}
	}
	return statefile.ExportPrivate(path, bundle)
}

package appsecret

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
)

const (
	// KeyFile is the name of the key's file in the state directory.
	KeyFile = "appsecret.key"

	keyBytes     = 32
	keyFileBegin = "keyagent app secret key, version 1\n" // then the key in hex, and a newline
	bootIDFile   = "/proc/sys/kernel/random/boot_id"
)

// Open returns a keeper with the key in the state directory, which is made if there is none. A
// damaged one is put aside and replaced, which the log is told. The caller must hold the lock of
// the directory.
func Open(dir statefile.Dir, logger *slog.Logger, watch Watch) (*Keeper, error) {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return nil, fmt.Errorf("finding out which boot of the machine this is: %w", err)
	}
	key, err := loadKey(dir)
	if torn, ok := errors.AsType[*statefile.TornError](err); ok || errors.Is(err, fs.ErrNotExist) {
		if ok {
			logger.Error("the key of the programs' secrets is damaged: another one is made, and programs that have a secret must be started again", "error", torn)
		}
		key, err = makeKey(dir)
	}
	if err != nil {
		return nil, err
	}
	return New(key, strings.TrimSpace(string(boot)), watch)
}

func loadKey(dir statefile.Dir) (key secret.String, err error) {
	err = dir.Load(KeyFile, int64(len(keyFileBegin)+hex.EncodedLen(keyBytes)+1), func(data []byte) error {
		text, begins := bytes.CutPrefix(data, []byte(keyFileBegin))
		text, ends := bytes.CutSuffix(text, []byte("\n"))
		raw := make([]byte, hex.DecodedLen(len(text)))
		if _, err := hex.Decode(raw, text); err != nil || !begins || !ends || len(raw) != keyBytes {
			return errors.New("it does not hold a key") // no more is said of the content
		}
		key = secret.New(string(raw))
		return nil
	})
	return key, err
}

func makeKey(dir statefile.Dir) (secret.String, error) {
	raw := make([]byte, keyBytes)
	_, _ = rand.Read(raw) // it never fails
	if err := dir.Write(KeyFile, []byte(keyFileBegin+hex.EncodeToString(raw)+"\n")); err != nil {
		return secret.String{}, err
	}
	return secret.New(string(raw)), nil
}

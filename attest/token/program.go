package token

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/internal/secret"
)

// EnvEndpoint is the variable of a program's environment with the endpoint of the attestation
// service that the token is for, which is the audience of the evidence, too.
const EnvEndpoint = "KEYAGENT_ATTESTATION_ENDPOINT"

// programTimeout is how long a program may take. Whoever waits for a token waits for a minute.
const programTimeout = 30 * time.Second

// ProgramConfig says which program gets attestation tokens.
type ProgramConfig struct {
	Collector *collect.Collector
	// Evidence is what the program is given, but for the challenge.
	Evidence collect.Request
	Command  []string         // an absolute path, and arguments
	Timeout  time.Duration    // 0: 30 s
	Now      func() time.Time // nil: time.Now
	Logger   *slog.Logger     // nil: nothing is logged
}

// Program gets tokens from a program of the operator's: it is given a bundle of evidence on its
// standard input and writes the token, a JWT in compact form, to its standard output. No shell
// takes part, and its environment has nothing of the agent's. It is safe for concurrent use.
type Program struct {
	cfg ProgramConfig
	*cache
}

// NewProgram makes a provider. It starts nothing.
func NewProgram(cfg ProgramConfig) *Program {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = programTimeout
	}
	p := &Program{cfg: cfg}
	p.cache = newCache(p.attest, cfg.Now)
	return p
}

// attest makes evidence and has the program make a token of it.
func (p *Program) attest(ctx context.Context, endpoint string) (secret.String, time.Time, error) {
	request := p.cfg.Evidence
	request.Challenge = attest.Challenge{Nonce: make([]byte, nonceSize), Audience: endpoint}
	if _, err := rand.Read(request.Nonce); err != nil {
		return secret.String{}, time.Time{}, err
	}
	evidence, err := p.cfg.Collector.CollectFor(ctx, request)
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	bundle, err := evidence.Encode()
	if err != nil {
		return secret.String{}, time.Time{}, err
	}
	return p.ask(ctx, endpoint, bundle)
}

// ask runs the program.
func (p *Program) ask(ctx context.Context, endpoint string, bundle []byte) (secret.String, time.Time, error) {
	run := process{
		command: p.cfg.Command, input: bundle, timeout: p.cfg.Timeout,
		env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", EnvEndpoint + "=" + endpoint},
	}
	output, said, err := run.do(ctx)
	var token secret.String
	var expires time.Time
	if err == nil {
		token, expires, err = readToken(output, p.cfg.Now())
	}
	p.tell(ctx, said, err)
	if err != nil {
		return secret.String{}, time.Time{}, fmt.Errorf("attestation program %s: %w", p.cfg.Command[0], err)
	}
	p.cfg.Logger.InfoContext(ctx, "attestation token obtained", "program", p.cfg.Command[0], "endpoint", endpoint, "expires", expires)
	return token, expires, nil
}

// tell puts into the log what the program wrote to its standard error.
func (p *Program) tell(ctx context.Context, said string, failed error) {
	if said = withoutSecrets(said); said == "" {
		return
	}
	level := slog.LevelInfo
	if failed != nil {
		level = slog.LevelWarn
	}
	p.cfg.Logger.Log(ctx, level, "the attestation program says", "program", p.cfg.Command[0], "stderr", said)
}

// tokenLike matches text that may be a token, a key or a part of the evidence. It does not match
// paths of usual length.
var tokenLike = regexp.MustCompile(`eyJ[A-Za-z0-9+/_=.-]*|[A-Za-z0-9+/_=.-]{40,}|[A-Za-z0-9+_=-]{20,}`)

// withoutSecrets makes a program's own words fit for the log: one line, without control and format
// characters and without anything that could be a token.
func withoutSecrets(said string) string {
	said = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(said, "?"))
	return tokenLike.ReplaceAllString(strings.TrimSpace(said), "…")
}

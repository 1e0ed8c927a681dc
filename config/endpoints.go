package config

// Endpoints are ways into the agent besides its Unix socket. Each is off unless it is configured.
type Endpoints struct {
	// Takeover gives the programs of chosen users the agent in the place of IMDS at
	// 169.254.169.254, whatever they do (docs/takeover.md). Default: nobody's.
	Takeover *Takeover `yaml:"takeover,omitempty"`
}

// checkEndpoints makes the checks of all endpoints.
func (c *Config) checkEndpoints(f *findings) {
	if t := c.Endpoints.Takeover; t != nil {
		t.check(f, "endpoints.takeover")
	}
}

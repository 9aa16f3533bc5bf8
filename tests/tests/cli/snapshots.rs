//! What the commands print, as a user sees it. `make snapshots` accepts what they print now.

use clap::Command;

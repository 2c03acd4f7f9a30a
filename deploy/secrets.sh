#!/bin/sh
# Makes the secrets that compose.yaml reads, each in a file of its own; those that exist are kept. Directory: $1.
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
services="gateway dispatcher runner archiver processors"
mkdir -p "$folder"

secret() { # NAME
  [ -s "$folder/$1" ] || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$folder/$1"
}

secret grafana-password
secret cursor-key
for user in admin $services; do secret "kafka-$user"; done

# Who may log in at the broker. A new user or password counts once the broker has been started again.
{
  echo 'KafkaServer {'
  echo '  org.apache.kafka.common.security.plain.PlainLoginModule required'
  printf '  username="admin" password="%s"' "$(cat "$folder/kafka-admin")"
  for user in admin $services; do printf '\n  user_%s="%s"' "$user" "$(cat "$folder/kafka-$user")"; done
  printf ';\n};\n'
} > "$folder/kafka-jaas"

# compose mounts the files as they are, and the containers' users are not yours: the folder is what keeps others out.
find "$folder" -type f ! -name signing-key.pem -exec chmod 644 {} +

# Sourced by the scripts that take the path of data, before they change the
# folder.

# data_path PATH: prints it as a path from everywhere.  @NAME, tfds:NAME and the
# id of a data set on the Hub are none and stay; a file that is missing is an
# error.
data_path() {
  local word='[[:alnum:]_][[:alnum:]_.-]*'
  local id="^$word/$word([@?].*)?\$" data='\.(jsonl|ndjson|json|parquet|csv|tsv)(\.gz)?$'
  if [[ $1 == @* || $1 == tfds:* ]]; then
    printf '%s\n' "$1"
  elif (shopt -s globstar; compgen -G "$1" > /dev/null); then
    realpath -m "$1"
  elif [[ ! -e $1 && $1 =~ $id && ! ${1%%[@?]*} =~ $data ]]; then
    printf '%s\n' "$1"
  else
    realpath -e "$1"
  fi
}
